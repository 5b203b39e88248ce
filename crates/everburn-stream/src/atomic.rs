use std::fs::File;
use std::io;
use std::path::Path;

/// Writes a file under a temporary name beside it, flushes it to the disk, and renames it: a reader
/// sees the old file or the new one, never a part, and others may read it as the umask says.
///
/// # Errors
/// If the disk refuses; the file that was there stays, and no temporary file is left.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".everburn-").suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        // `tempfile` alone makes files that only their owner may read.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let temporary = builder.tempfile_in(folder)?;
    write(temporary.as_file())?;
    temporary.as_file().sync_all()?;
    temporary.persist(path)?;
    Ok(())
}
