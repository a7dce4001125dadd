//! System calls, past the C library: whose connect() would be ours, and which may be any.

use core::arch::asm;

/// What a system call answers, or its error number.
pub(crate) type Answer = Result<usize, i32>;

#[cfg(target_arch = "x86_64")]
mod number {
    pub(super) const WRITE: usize = 1;
    pub(super) const RT_SIGPROCMASK: usize = 14;
    pub(super) const CONNECT: usize = 42;
    pub(super) const SENDTO: usize = 44;
    pub(super) const GETSOCKNAME: usize = 51;
    pub(super) const GETPEERNAME: usize = 52;
    pub(super) const GETSOCKOPT: usize = 55;
    pub(super) const EXIT_GROUP: usize = 231;
    pub(super) const PPOLL: usize = 271;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub(super) const WRITE: usize = 64;
    pub(super) const PPOLL: usize = 73;
    pub(super) const EXIT_GROUP: usize = 94;
    pub(super) const RT_SIGPROCMASK: usize = 135;
    pub(super) const CONNECT: usize = 203;
    pub(super) const GETSOCKNAME: usize = 204;
    pub(super) const GETPEERNAME: usize = 205;
    pub(super) const SENDTO: usize = 206;
    pub(super) const GETSOCKOPT: usize = 209;
}

/// # Safety
/// As the system call says.
unsafe fn call(number: usize, [a, b, c, d, e]: [usize; 5]) -> Answer {
    let answer: isize;
    // SAFETY: the kernel's calling convention (syscall(2)); what it does to memory the caller answers for.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("syscall", inlateout("rax") number => answer, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
            in("r9") 0, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a => answer, in("x1") b, in("x2") c, in("x3") d, in("x4") e,
            in("x5") 0, options(nostack));
    }
    match usize::try_from(answer) {
        Ok(answer) => Ok(answer),
        Err(_) => Err(-answer as i32),
    }
}

const fn fd(fd: i32) -> usize {
    fd as isize as usize
}

/// Whether so many bytes may be read there: at most a page, and not none.
///
/// rt_sigprocmask(2) copies a set of eight bytes before it finds that it is not told what to do with it: EFAULT comes before
/// EINVAL (kernel/signal.c), nothing is changed, and no filter of system calls forbids it.
pub(crate) fn is_readable(at: *const u8, length: usize) -> bool {
    const WORD: usize = 8;
    const NOTHING_KNOWN: usize = usize::MAX;
    const EFAULT: i32 = 14;
    let first = at as usize;
    let Some(last) = length.checked_sub(1).and_then(|more| first.checked_add(more)) else { return false };
    // A word in its place lies in one page.
    [first & !(WORD - 1), last & !(WORD - 1)].into_iter().all(|word| {
        // SAFETY: the kernel reads a word, if it can.
        let told = unsafe { call(number::RT_SIGPROCMASK, [NOTHING_KNOWN, word, 0, WORD, 0]) };
        // A null pointer it takes for no set.
        word != 0 && told != Err(EFAULT)
    })
}

/// connect(2).
///
/// # Safety
/// As connect(2): `address` may be anything that the kernel can refuse.
pub(crate) unsafe fn connect(socket: i32, address: *const u8, length: u32) -> Answer {
    // SAFETY: the kernel checks what it is given.
    unsafe { call(number::CONNECT, [fd(socket), address as usize, length as usize, 0, 0]) }
}

/// getpeername(2).
///
/// # Safety
/// As getpeername(2).
pub(crate) unsafe fn peer_name(socket: i32, address: *mut u8, length: *mut u32) -> Answer {
    // SAFETY: the caller's promise.
    unsafe { call(number::GETPEERNAME, [fd(socket), address as usize, length as usize, 0, 0]) }
}

/// The socket's own address, and how long it is.
pub(crate) fn own_name<const N: usize>(socket: i32) -> Result<([u8; N], usize), i32> {
    let (mut name, mut length) = ([0; N], N as u32);
    let at = [fd(socket), name.as_mut_ptr() as usize, &raw mut length as usize, 0, 0];
    // SAFETY: the kernel writes at most so many bytes there, and the length.
    unsafe { call(number::GETSOCKNAME, at) }?;
    Ok((name, (length as usize).min(N)))
}

/// An option of SOL_SOCKET that is a number.
pub(crate) fn option(socket: i32, name: i32) -> Result<i32, i32> {
    const SOL_SOCKET: usize = 1;
    let (mut value, mut length) = (0_i32, size_of::<i32>() as u32);
    let at = [fd(socket), SOL_SOCKET, name as usize, &raw mut value as usize, &raw mut length as usize];
    // SAFETY: the kernel writes at most four bytes there, and the length.
    unsafe { call(number::GETSOCKOPT, at) }?;
    Ok(value)
}

/// Sends without waiting, and without a signal if nobody is there; how many bytes.
pub(crate) fn send(socket: i32, bytes: &[u8]) -> Answer {
    const MSG_DONTWAIT: usize = 0x40;
    const MSG_NOSIGNAL: usize = 0x4000;
    let [at, length] = [bytes.as_ptr() as usize, bytes.len()];
    // SAFETY: the kernel reads what the slice holds.
    unsafe { call(number::SENDTO, [fd(socket), at, length, MSG_DONTWAIT | MSG_NOSIGNAL, 0]) }
}

/// Waits until the socket can be written to, or has failed; whether it has within so many seconds.
pub(crate) fn await_writable(socket: i32, seconds: i64) -> bool {
    #[repr(C)]
    struct PollFd {
        fd: i32,
        events: i16,
        revents: i16,
    }
    const POLLOUT: i16 = 4;
    const EINTR: i32 = 4;
    let mut asked = PollFd { fd: socket, events: POLLOUT, revents: 0 };
    // The kernel leaves in it what is left of it (ppoll(2), "C library/kernel differences").
    let mut left = [seconds, 0_i64];
    loop {
        // SAFETY: one pollfd, one timespec of 64-bit words, no signal mask.
        let ready = unsafe { call(number::PPOLL, [&raw mut asked as usize, 1, left.as_mut_ptr() as usize, 0, 0]) };
        match ready {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(EINTR) => {}
            Err(_) => return false,
        }
    }
}

/// Says a line on standard error.
pub(crate) fn complain(parts: &[&[u8]]) {
    for part in [&b"bypassctl-preload: "[..]].iter().chain(parts).chain(&[&b"\n"[..]]) {
        // SAFETY: the kernel reads what the slice holds. Who has closed standard error hears nothing.
        let _ = unsafe { call(number::WRITE, [2, part.as_ptr() as usize, part.len(), 0, 0]) };
    }
}

/// Ends the process.
#[cfg(not(test))]
pub(crate) fn abort() -> ! {
    loop {
        // SAFETY: it does not come back.
        let _ = unsafe { call(number::EXIT_GROUP, [134, 0, 0, 0, 0]) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_told_without_reading_it() {
        let bytes = [1_u8; 128];
        for length in [1, 16, 128] {
            assert!(is_readable(bytes.as_ptr(), length));
        }
        assert!(!is_readable(bytes.as_ptr(), 0));
        for nowhere in [0, 1, 4096, usize::MAX - 7, usize::MAX] {
            for length in [4, 16] {
                assert!(!is_readable(nowhere as *const u8, length), "{nowhere:#x} {length}");
            }
        }
    }
}
