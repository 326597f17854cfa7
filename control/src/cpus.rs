//! Which CPU each thread may use: a worker has one to itself, everything else keeps off it.

use std::{fs, io};

use rustix::{
    process::Pid,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

/// The CPUs that the calling thread may use.
pub fn allowed() -> Vec<u16> {
    let Ok(set) = sched_getaffinity(None) else {
        return Vec::new();
    };
    (0..u16::MAX)
        .take_while(|cpu| usize::from(*cpu) < CpuSet::MAX_CPU)
        .filter(|cpu| set.is_set(usize::from(*cpu)))
        .collect()
}

/// The CPU of each worker: as asked for, else the first ones of `allowed` if there is one for each.
pub fn pins(asked: Option<&[u16]>, workers: usize, allowed: &[u16]) -> Vec<Option<u16>> {
    let pins = match asked {
        Some(cpus) => cpus,
        None if allowed.len() >= workers => allowed,
        None => &[],
    };
    (0..workers).map(|worker| pins.get(worker).copied()).collect()
}

/// Pins the calling thread to a CPU. A worker that cannot be pinned works all the same.
pub fn pin(cpu: Option<u16>) {
    let Some(cpu) = cpu else {
        return;
    };
    if let Err(error) = sched_setaffinity(None, &set(&[cpu])) {
        tracing::warn!("cannot pin a worker to CPU {cpu}: {error}");
    }
}

/// Takes every thread of this process off the workers' CPUs, and so what these threads start; where
/// no other CPU is allowed, all stay. To be called before workers start: they pin themselves.
pub fn keep_off(pins: &[Option<u16>], allowed: &[u16]) {
    let rest = others(pins, allowed);
    if rest.is_empty() || rest.len() == allowed.len() {
        return;
    }
    if let Err(error) = move_all(&set(&rest)) {
        tracing::warn!("other threads cannot be kept off the workers' CPUs: {error}");
    }
}

/// What `allowed` holds beside the workers' CPUs.
fn others(pins: &[Option<u16>], allowed: &[u16]) -> Vec<u16> {
    allowed.iter().copied().filter(|cpu| !pins.contains(&Some(*cpu))).collect()
}

/// Moves every thread of this process. One that has ended meanwhile is no fault.
fn move_all(cpus: &CpuSet) -> io::Result<()> {
    for thread in fs::read_dir("/proc/self/task")? {
        let name = thread?.file_name();
        let id = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        match sched_setaffinity(id, cpus) {
            Err(rustix::io::Errno::SRCH) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// These CPUs as a set; what does not fit in is left out.
fn set(cpus: &[u16]) -> CpuSet {
    let mut set = CpuSet::new();
    for cpu in cpus.iter().map(|cpu| usize::from(*cpu)).filter(|cpu| *cpu < CpuSet::MAX_CPU) {
        set.set(cpu);
    }
    set
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    #[test]
    fn workers_get_what_was_asked_for_else_the_first_cpus() {
        assert_eq!(pins(Some(&[7, 5]), 2, &[0, 1, 2]), [Some(7), Some(5)]);
        assert_eq!(pins(Some(&[]), 2, &[0, 1, 2]), [None, None]);
        assert_eq!(pins(None, 2, &[3, 4, 9]), [Some(3), Some(4)]);
        assert_eq!(pins(None, 4, &[3, 4, 9]), [None; 4]);
    }

    #[test]
    fn the_rest_is_what_no_worker_has() {
        assert_eq!(others(&[Some(0), Some(2)], &[0, 1, 2, 3]), [1, 3]);
        assert!(others(&[Some(0), Some(1)], &[0, 1]).is_empty());
        assert_eq!(others(&[None], &[0, 1]), [0, 1]);
    }

    #[test]
    fn a_thread_that_waits_is_moved_too_and_hands_it_on() {
        let cpus = allowed();
        let Some((first, rest)) = cpus.split_first() else {
            return;
        };
        if rest.is_empty() {
            return;
        }
        let (go, told) = mpsc::channel::<()>();
        let waiting = thread::spawn(move || {
            told.recv().unwrap();
            let child = thread::spawn(allowed).join().unwrap();
            (allowed(), child)
        });
        keep_off(&[Some(*first)], &cpus);
        go.send(()).unwrap();
        assert_eq!(waiting.join().unwrap(), (rest.to_vec(), rest.to_vec()));
        assert_eq!(allowed(), rest);
        // Other tests of this process go on as before.
        move_all(&set(&cpus)).unwrap();
    }
}
