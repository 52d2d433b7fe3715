//! What the probes know of a process.

wire! {
    /// A traced process. Value of the map `PROCESSES`, keyed by thread group id.
    pub struct Process (24) {
        /// Index of its first entry in `MAPPINGS`.
        pub mapping_base: u32,
        /// Number of its entries; 0 = not known yet.
        pub mapping_count: u32,
        /// Bits of `PROCESS_*`.
        pub flags: u32,
        /// Not 0 while a [`NEED_MAPS`](crate::notice::NEED_MAPS) notice is unanswered.
        pub maps_requested: u32,
        /// 1 + index of its entry in `PYTHONS`; 0 = no Python frames are looked for.
        pub python: u32,
        /// Always 0.
        pub reserved: u32,
    }
}

/// Child processes are traced like this one.
pub const PROCESS_FOLLOW: u32 = 1;
/// Allocator probes are attached or about to be.
pub const PROCESS_TRACED: u32 = 2;

wire! {
    /// What the probe keeps of a thread between the entry of an allocator function and its return. Value of the
    /// maps `THREAD_SLOTS` and `THREADS`.
    pub struct Thread (48) {
        /// `tgid << 32 | tid`; 0 = the slot is free.
        pub owner: u64,
        /// Stack pointer at the entry of the outermost call: it points at the return address. 0 = not inside.
        pub sp: u64,
        /// Requested size.
        pub size: u64,
        /// Old block, or where `posix_memalign` puts the new one.
        pub ptr: u64,
        /// Kind of the outermost call.
        pub kind: u32,
        /// Domain of the function that was called ([`crate::domain`]).
        pub domain: u32,
        /// Calls that began inside another and were not counted.
        pub nested: u64,
    }
}

wire! {
    /// Offsets inside kernel structures on the running kernel, from its BTF. A global of the probe object; an
    /// offset of 0 means unknown (none of these members comes first in its structure, but for
    /// `vm_area_struct.vm_start`, which does).
    pub struct KernelOffsets (64) {
        /// `task_struct.mm`
        pub task_mm: u32,
        /// `task_struct.tgid`
        pub task_tgid: u32,
        /// `task_struct.pid`
        pub task_pid: u32,
        /// `task_struct.signal`
        pub task_signal: u32,
        /// `signal_struct.live`: threads that have not begun to exit
        pub signal_live: u32,
        /// `vm_area_struct.vm_start`
        pub vma_start: u32,
        /// `vm_area_struct.vm_end`
        pub vma_end: u32,
        /// `vm_area_struct.vm_pgoff`
        pub vma_pgoff: u32,
        /// `vm_area_struct.vm_file`
        pub vma_file: u32,
        /// `file.f_inode`
        pub file_inode: u32,
        /// `inode.i_ino`
        pub inode_ino: u32,
        /// `inode.i_sb`
        pub inode_sb: u32,
        /// `super_block.s_dev`
        pub super_dev: u32,
        /// `task_struct.thread.fsbase`: the thread pointer
        pub task_fsbase: u32,
        /// Always 0.
        pub reserved: [u32; 2],
    }
}

wire! {
    /// Offsets inside the records of perf tracepoints on the running kernel, from the events' `format` files. A global of
    /// the probe object; an offset of 0 means that there is no such field (a record begins with fields that all have).
    pub struct RecordOffsets (20) {
        /// `task_newtask`: `pid` of the new task
        pub newtask_pid: u32,
        /// `task_newtask`: `clone_flags`
        pub newtask_flags: u32,
        /// `sched_process_exec`: `old_pid` of the thread that runs the new program
        pub exec_old_pid: u32,
        /// `task_rename`: `pid` of the task
        pub rename_pid: u32,
        /// `task_rename`: `newcomm`
        pub rename_comm: u32,
    }
}
