//! What the app calls in place of the C library's functions.

use core::arch::asm;
use core::ffi::{c_char, c_int, c_void};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::address::STORAGE;
use crate::{settings, socket, system};

unsafe extern "C" {
    /// Where `errno` is: glibc and musl.
    fn __errno_location() -> *mut c_int;
}

/// No file descriptor, but the question whether calls arrive here.
const IS_ANYBODY_THERE: c_int = -12552;
const EBADF: c_int = 9;

static REACHED: AtomicBool = AtomicBool::new(false);

fn answer(result: Result<(), c_int>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(error) => {
            // SAFETY: a place of this thread's own.
            unsafe { *__errno_location() = error };
            -1
        }
    }
}

/// connect(2).
///
/// # Safety
/// As connect(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn connect(fd: c_int, address: *const u8, length: u32) -> c_int {
    if fd == IS_ANYBODY_THERE {
        REACHED.store(true, Ordering::Relaxed);
        return answer(Err(EBADF));
    }
    // SAFETY: the caller's promise.
    answer(unsafe { socket::connect(fd, address, length) })
}

/// glibc's other name for connect(2), for whoever was linked with it or looks it up.
///
/// # Safety
/// As connect(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __connect(fd: c_int, address: *const u8, length: u32) -> c_int {
    // SAFETY: the caller's promise.
    answer(unsafe { socket::connect(fd, address, length) })
}

/// getpeername(2): of what goes to the sidecar, where it was going.
///
/// # Safety
/// As getpeername(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getpeername(fd: c_int, address: *mut u8, length: *mut u32) -> c_int {
    let (mut peer, mut size) = ([0_u8; STORAGE], STORAGE as u32);
    // SAFETY: room of that size.
    let asked = unsafe { system::peer_name(fd, peer.as_mut_ptr(), &raw mut size) };
    let original = asked.ok().and_then(|_| socket::original_peer(fd, peer.get(..size as usize)?));
    let room = system::is_readable(length.cast(), size_of::<u32>()).then(|| {
        // SAFETY: it can be read.
        unsafe { length.read_unaligned() }
    });
    // SAFETY: the caller's promise; the kernel has the last word on what the caller gave, and says so in errno.
    let told = unsafe { system::peer_name(fd, address, length) };
    if let (Ok(_), Some((original, size)), Some(room)) = (told, original, room) {
        // SAFETY: the kernel has written an address of the same family there, as much of it as there is room for.
        unsafe { core::ptr::copy_nonoverlapping(original.as_ptr(), address, size.min(room as usize)) };
    }
    answer(told.map(drop))
}

/// What the dynamic linker takes for connect(), which need not be ours.
fn linked_connect() -> unsafe extern "C" fn(c_int, *const u8, u32) -> c_int {
    let at: *const c_void;
    // SAFETY: reads the entry of the global offset table, which the dynamic linker has filled.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("mov {}, qword ptr [rip + connect@GOTPCREL]", out(reg) at, options(nostack, readonly, preserves_flags));
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("adrp {0}, :got:connect", "ldr {0}, [{0}, :got_lo12:connect]", out(reg) at,
            options(nostack, readonly, preserves_flags));
    }
    // SAFETY: whoever's it is, connect() has this signature.
    unsafe { core::mem::transmute(at) }
}

/// A JVM that is told `-agentpath` calls this before anything else, and does not start if it is refused: so no JVM runs
/// without the library, or past it (JVM Tool Interface, "Agent Start-Up").
///
/// # Safety
/// None is needed; the arguments are not looked at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn Agent_OnLoad(_vm: *mut c_void, _options: *mut c_char, _reserved: *mut c_void) -> c_int {
    // SAFETY: a descriptor that is none.
    let _ = unsafe { linked_connect()(IS_ANYBODY_THERE, core::ptr::null(), 0) };
    if !REACHED.load(Ordering::Relaxed) {
        system::complain(&[b"connections do not pass this library: LD_PRELOAD has to name it"]);
        return -1;
    }
    if settings::are_good() { 0 } else { -1 }
}
