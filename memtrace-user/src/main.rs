//! dev main
use memtrace::*;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let _ = env_logger_init();
    let selection = session::Selection { rules: vec![target::rule::Rule::Pid(ids::Pid(args[1].parse().unwrap()))], follow_children: false };
    let filter = snapshot::BlockFilter::default();
    let options = session::SessionOptions {
        selection, wait: true, interval: Some(std::time::Duration::from_secs(2)), duration: Some(std::time::Duration::from_secs(args[2].parse().unwrap())),
        report: report::ReportOptions { sort: report::Sort::LiveBytes, top: Some(5), filter },
        probes: probe::ProbeOptions::default(), memory: ids::Bytes(1<<30),
    };
    let output = report::Output::open(&report::Destination::Stdout, report::Format::Table).unwrap();
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    println!("{:?}", rt.block_on(session::run(options, None, output)));
}
fn env_logger_init() { env_logger::init(); }
