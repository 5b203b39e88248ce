use std::fs::{File, FileTimes};
use std::io;
use std::path::Path;
use std::time::SystemTime;

/// A file that many threads read at once, each where it wants.
#[derive(Debug)]
pub(crate) struct Positioned {
    #[cfg(unix)]
    file: File,
    /// Elsewhere reading moves the one position that a file has.
    #[cfg(not(unix))]
    file: std::sync::Mutex<File>,
}

impl Positioned {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        File::open(path).map(Self::new)
    }

    #[cfg(unix)]
    pub(crate) fn new(file: File) -> Self {
        Self { file }
    }

    /// Fills `bytes` from the file's byte `offset` on.
    #[cfg(unix)]
    pub(crate) fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        use std::os::unix::fs::FileExt as _;
        self.file.read_exact_at(bytes, offset)
    }

    #[cfg(unix)]
    fn with<T>(&self, act: impl FnOnce(&File) -> T) -> T {
        act(&self.file)
    }

    #[cfg(not(unix))]
    pub(crate) fn new(file: File) -> Self {
        let file = std::sync::Mutex::new(file);
        Self { file }
    }

    /// Fills `bytes` from the file's byte `offset` on.
    #[cfg(not(unix))]
    pub(crate) fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        use std::io::{Read as _, Seek as _, SeekFrom};
        self.with(|mut file| {
            file.seek(SeekFrom::Start(offset))?;
            file.read_exact(bytes)
        })
    }

    #[cfg(not(unix))]
    fn with<T>(&self, act: impl FnOnce(&File) -> T) -> T {
        use std::sync::PoisonError;
        act(&self.file.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> io::Result<u64> {
        self.with(|file| file.metadata().map(|data| data.len()))
    }

    /// Makes it the last one used. Who may not do that, in a cache of somebody else, reads it all the
    /// same.
    pub(crate) fn touch(&self) {
        let now = FileTimes::new().set_modified(SystemTime::now());
        self.with(|file| file.set_times(now)).unwrap_or_default();
    }
}
