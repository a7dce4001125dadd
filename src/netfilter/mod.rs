//! Rules in the kernel: apply, read back, prove.
