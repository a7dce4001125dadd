//! What the installer writes on a node: the executable, a kubeconfig for it, its place in a configuration list.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use serde_json::json;

use crate::core::cni::{Settings, TYPE, chain};

/// Whoever reads it is the installer's service account.
const SECRET: u32 = 0o600;
const EXECUTABLE: u32 = 0o755;
/// How the names of files end that are not whole yet.
const NEXT: &str = ".bypassctl-next";
/// Larger than any configuration and any token.
const MOST_BYTES: u64 = 1 << 20;

/// Where a node's runtime looks.
#[derive(Clone, Debug)]
pub struct Host {
    /// Plugins.
    pub bin_dir: PathBuf,
    /// Configurations.
    pub conf_dir: PathBuf,
    /// The list; `None` for the first by its name.
    pub conf_name: Option<String>,
}

/// What became of the lists that name the plugin.
#[derive(Debug, Default)]
pub struct Removed {
    /// Those that it is out of.
    pub lists: Vec<PathBuf>,
    /// What could not be read or written, and may still name it.
    pub failed: Vec<FilesError>,
}

/// Why something is not as it is to be.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file.
    #[error("{attempted} {}: {source}", path.display())]
    Io {
        /// What was being done.
        attempted: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The runtime has none yet.
    #[error("there is no network configuration in {}: the node's own network is not installed yet", .0.display())]
    NoConfiguration(PathBuf),
    /// One that the plugin cannot go into.
    #[error("the network configuration {}: {reason}", path.display())]
    Configuration {
        /// Which.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

fn io_error(attempted: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FilesError {
    move |source| FilesError::Io { attempted, path: path.to_owned(), source }
}

/// What the plugin is given to ask the API server with.
#[derive(Clone, PartialEq, Eq)]
pub struct Access {
    /// URL.
    pub server: String,
    /// PEM.
    pub ca: Vec<u8>,
    /// A bearer token.
    pub token: String,
}

impl Access {
    /// Of the service account in this directory.
    ///
    /// # Errors
    /// [`FilesError::Io`].
    pub fn of(server: &str, dir: &Path) -> Result<Self, FilesError> {
        let read = |name: &str| {
            let path = dir.join(name);
            read_bounded(&path).map_err(io_error("reading", &path))
        };
        let token = String::from_utf8(read("token")?).map_err(|_| io::Error::other("it is no text"));
        let token = token.map_err(io_error("reading", &dir.join("token")))?.trim().to_owned();
        Ok(Self { server: server.to_owned(), ca: read("ca.crt")?, token })
    }

    fn kubeconfig(&self) -> String {
        let ca = base64::engine::general_purpose::STANDARD.encode(&self.ca);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": TYPE,
            "clusters": [{"name": TYPE, "cluster": {"server": self.server, "certificate-authority-data": ca}}],
            "users": [{"name": TYPE, "user": {"token": self.token}}],
            "contexts": [{"name": TYPE, "context": {"cluster": TYPE, "user": TYPE}}],
        });
        format!("{config:#}\n")
    }
}

impl Host {
    /// The plugin.
    #[must_use]
    pub fn executable(&self) -> PathBuf {
        self.bin_dir.join(TYPE)
    }

    /// Its kubeconfig; runtimes read no file of this name.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.conf_dir.join(format!("{TYPE}.kubeconfig"))
    }

    /// The list that the runtime reads.
    ///
    /// # Errors
    /// If there is none.
    pub fn list(&self) -> Result<PathBuf, FilesError> {
        let name = match &self.conf_name {
            Some(name) => Some(name.clone()),
            None => chain::first_read(self.names()?),
        };
        name.map(|name| self.conf_dir.join(name)).ok_or_else(|| FilesError::NoConfiguration(self.conf_dir.clone()))
    }

    fn names(&self) -> Result<Vec<String>, FilesError> {
        let dir = &self.conf_dir;
        let entries = fs::read_dir(dir).map_err(io_error("listing", dir))?.flatten();
        // Links that lead to a file, too: a runtime reads through them.
        let files = entries.filter(|entry| fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_file()));
        Ok(files.filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    /// Puts the executable there; whether it was not as it is to be.
    ///
    /// # Errors
    /// [`FilesError::Io`].
    pub fn install_executable(&self, source: &Path) -> Result<bool, FilesError> {
        let to = self.executable();
        if is_same_file_content(source, &to) {
            return Ok(false);
        }
        let bytes = fs::read(source).map_err(io_error("reading", source))?;
        write(&to, &bytes, EXECUTABLE)?;
        Ok(true)
    }

    /// Writes the kubeconfig; whether it was not as it is to be.
    ///
    /// # Errors
    /// [`FilesError::Io`].
    pub fn install_kubeconfig(&self, access: &Access) -> Result<bool, FilesError> {
        let (path, text) = (self.kubeconfig(), access.kubeconfig());
        let is_private = fs::metadata(&path).is_ok_and(|metadata| metadata.permissions().mode() & 0o777 == SECRET);
        if is_private && read_bounded(&path).is_ok_and(|there| there == text.as_bytes()) {
            return Ok(false);
        }
        write(&path, text.as_bytes(), SECRET)?;
        Ok(true)
    }

    /// Puts the plugin into the runtime's list; which, if it was not as it is to be.
    ///
    /// # Errors
    /// See [`FilesError`].
    pub fn install_plugin(&self, settings: &Settings) -> Result<Option<PathBuf>, FilesError> {
        let path = self.list()?;
        let changed = self.edit(&path, |text| chain::with_plugin(text, settings))?;
        Ok(changed.then_some(path))
    }

    /// Takes the plugin out of every list that has it, whatever has become of the others; what is no list has no plugin of
    /// ours.
    ///
    /// # Errors
    /// [`FilesError::Io`], if the directory cannot be listed.
    pub fn remove_plugin(&self) -> Result<Removed, FilesError> {
        let mut removed = Removed::default();
        let is_read =
            |name: &String| self.conf_name.as_ref() == Some(name) || chain::first_read(vec![name.clone()]).is_some();
        let lists = self.names()?.into_iter().filter(is_read);
        for path in lists.map(|name| self.conf_dir.join(name)) {
            match self.edit(&path, chain::without_plugin) {
                Ok(true) => removed.lists.push(path),
                Ok(false) | Err(FilesError::Configuration { .. }) => {}
                Err(error) => removed.failed.push(error),
            }
        }
        Ok(removed)
    }

    /// Removes what writers that were killed have left beside the files; those of the last minute may still be written.
    pub fn remove_leftovers(&self, age: Duration) {
        for dir in [&self.bin_dir, &self.conf_dir] {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let is_ours =
                    entry.file_name().to_str().is_some_and(|name| name.starts_with('.') && name.ends_with(NEXT));
                let modified = entry.metadata().and_then(|metadata| metadata.modified());
                let is_old = modified.is_ok_and(|at| at.elapsed().unwrap_or_default() >= age);
                if is_ours && is_old && fs::remove_file(entry.path()).is_ok() {
                    tracing::info!(path = %entry.path().display(), "half-written file of a run that was killed: removed");
                }
            }
        }
    }

    /// Removes the kubeconfig; whether it was there.
    ///
    /// # Errors
    /// [`FilesError::Io`].
    pub fn remove_kubeconfig(&self) -> Result<bool, FilesError> {
        remove(&self.kubeconfig())
    }

    /// Removes the executable; whether it was there.
    ///
    /// # Errors
    /// [`FilesError::Io`].
    pub fn remove_executable(&self) -> Result<bool, FilesError> {
        remove(&self.executable())
    }

    /// What is missing.
    #[must_use]
    pub fn lacks(&self) -> Vec<String> {
        let mut lacks = Vec::new();
        for path in [self.executable(), self.kubeconfig()] {
            if !path.is_file() {
                lacks.push(format!("there is no {}", path.display()));
            }
        }
        match self.list() {
            Err(error) => lacks.push(error.to_string()),
            Ok(path) => match read_text(&path).map(|text| chain::lacks(&text)) {
                Ok(None) => {}
                Ok(Some(reason)) => lacks.push(format!("{}: {reason}", path.display())),
                Err(error) => lacks.push(error.to_string()),
            },
        }
        lacks
    }

    fn edit(
        &self,
        path: &Path,
        change: impl FnOnce(&str) -> Result<Option<String>, String>,
    ) -> Result<bool, FilesError> {
        let text = read_text(path)?;
        let changed = change(&text);
        let changed = changed.map_err(|reason| FilesError::Configuration { path: path.to_owned(), reason })?;
        let Some(new) = changed else { return Ok(false) };
        // A link stays one, and what it leads to is written.
        let place = fs::canonicalize(path).map_err(io_error("reading", path))?;
        let mode = fs::metadata(&place).map_err(io_error("reading", path))?.permissions().mode();
        write(&place, new.as_bytes(), mode & 0o777)?;
        Ok(true)
    }
}

fn read_text(path: &Path) -> Result<String, FilesError> {
    let text = read_bounded(path).and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other));
    text.map_err(io_error("reading", path))
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(bytes)
}

/// By size first, as it is asked every second.
fn is_same_file_content(one: &Path, other: &Path) -> bool {
    let size =
        |path: &Path| fs::metadata(path).map(|metadata| (metadata.len(), metadata.permissions().mode() & 0o111 != 0));
    let (Ok((size_one, _)), Ok((size_other, true))) = (size(one), size(other)) else { return false };
    size_one == size_other && fs::read(one).ok() == fs::read(other).ok()
}

fn remove(path: &Path) -> Result<bool, FilesError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error("removing", path)(error)),
    }
}

/// The whole of it or nothing: whoever looks meanwhile sees what was there before. Runtimes read no file that begins with a dot
/// and ends so.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FilesError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut random = [0; 8];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut random))
        .map_err(io_error("reading", Path::new("/dev/urandom")))?;
    // Of this writer alone; in containers, each may be process 1.
    let next = path.with_file_name(format!(".{name}.{:016x}{NEXT}", u64::from_ne_bytes(random)));
    let written = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&next)?;
        file.write_all(bytes)?;
        // Whatever the umask is.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        drop(file);
        fs::rename(&next, path)?;
        // The name, too, is to outlive a loss of power.
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    written().map_err(|error| {
        drop(fs::remove_file(&next));
        io_error("writing", path)(error)
    })
}
