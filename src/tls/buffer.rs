//! Bytes on their way from one socket to the other.

/// Room for bytes, initialised once and used again and again: the filled part lies between `start` and `end`.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// An empty buffer of this size.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self { bytes: vec![0; size], start: 0, end: 0 }
    }

    /// What is in it.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// What is in it, to be decrypted in place.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// Room behind what is in it.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
    }

    /// Room for at least this much; a buffer that is too small grows.
    pub fn room_for(&mut self, size: usize) -> &mut [u8] {
        if self.bytes.len() - self.end < size {
            self.bytes.resize(self.end + size, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// Takes in what was written to [`Self::room`].
    pub fn fill(&mut self, size: usize) {
        debug_assert!(self.end + size <= self.bytes.len());
        self.end += size;
    }

    /// Appends.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.room_for(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// Lets go of the first bytes.
    pub fn consume(&mut self, size: usize) {
        debug_assert!(self.start + size <= self.end);
        self.start += size;
    }

    /// Lets go of everything.
    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The room of the whole buffer.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }
}
