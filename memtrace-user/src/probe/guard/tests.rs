use std::{
    fs::File,
    io::Read as _,
    os::fd::{AsFd as _, OwnedFd},
};

use super::{
    message::{Heard, Watched},
    *,
};

fn pair() -> (OwnedFd, OwnedFd) {
    let kind = SockType::SeqPacket;
    socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).expect("a pair of sockets")
}

fn told(max_files: usize) -> Told {
    Told {
        files: HashMap::new(),
        points: 0,
        max_files,
        left_out: 0,
        lost: false,
    }
}

#[test]
fn what_is_told_is_heard_even_after_the_teller_is_gone() {
    let (own, theirs) = pair();
    let file = File::open("/proc/self/comm").expect("a file");
    let mut expected = String::new();
    (&file).read_to_string(&mut expected).expect("its text");
    let fresh = File::open("/proc/self/comm").expect("a file");
    let points: Vec<u64> = (0..MAX_POINTS_AT_ONCE as u64).map(|n| n << 33).collect();
    let watch = Message::Watch {
        file: fresh.as_fd(),
        points: &points,
    };
    watch.send(own.as_fd()).expect("room in the queue");
    Message::End.send(own.as_fd()).expect("room in the queue");
    drop((own, fresh));
    let Ok(Heard::Watch(Watched {
        file,
        points: heard,
    })) = Heard::receive(theirs.as_fd())
    else {
        panic!("the file was not heard");
    };
    let mut text = String::new();
    File::from(file)
        .read_to_string(&mut text)
        .expect("its text");
    assert_eq!((text, heard), (expected, points));
    assert!(matches!(Heard::receive(theirs.as_fd()), Ok(Heard::End)));
    assert!(matches!(Heard::receive(theirs.as_fd()), Ok(Heard::Closed)));
}

#[test]
fn silence_is_not_the_end() {
    let (_own, theirs) = pair();
    assert!(matches!(Heard::receive(theirs.as_fd()), Err(Errno::EAGAIN)));
}

#[test]
fn a_place_is_told_once() {
    let mut told = told(2);
    assert_eq!(told.take_new((1, 1), [16, 32]), [16, 32]);
    assert_eq!(told.take_new((1, 1), [32, 48]), [48]);
    assert_eq!(told.take_new((1, 2), [32]), [32]);
    assert!(told.take_new((1, 1), [16, 32, 48]).is_empty());
    assert_eq!((told.points, told.left_out), (4, 0));
}

#[test]
fn files_beyond_the_limit_are_left_out_and_counted() {
    let mut told = told(2);
    assert_eq!(told.take_new((1, 1), [16]).len(), 1);
    assert_eq!(told.take_new((1, 2), [16]).len(), 1);
    assert!(told.take_new((1, 3), [16]).is_empty());
    assert_eq!(told.left_out, 1);
    assert_eq!(told.take_new((1, 1), [32]), [32], "a known file may grow");
    let too_many = 0..MAX_POINTS as u64;
    assert!(told.take_new((1, 2), too_many).is_empty());
    assert_eq!((told.points, told.left_out), (3, 2));
}
