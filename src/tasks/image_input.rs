//! Images of a column: paths or bytes, read and decoded when their batch runs. Paths are untrusted: this module opens
//! only regular files, within `images.root` if it is set, up to a size limit. Not here: decoding (`crate::image`),
//! preprocessing for a model.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{ImageSource, ImagesSpec};
use crate::error::{Error, ErrorKind, Result, RowErrorKind};
use crate::image::RgbImage;

/// The location of images, and the restrictions on them.
#[derive(Clone, Debug)]
pub(super) struct ImageInput {
    /// The base folder of relative paths.
    dir: PathBuf,
    images: ImagesSpec,
}

impl ImageInput {
    pub(super) fn new(dir: PathBuf, images: ImagesSpec) -> Self {
        Self { dir, images }
    }

    /// The settings that differ from the defaults. The step's options record them, because they can make rows fail.
    pub(super) fn summary(&self) -> serde_json::Map<String, serde_json::Value> {
        let (ours, default) = (&self.images, ImagesSpec::default());
        let mut summary = serde_json::Map::new();
        if let Some(root) = &ours.root {
            summary.insert("root".to_owned(), root.to_string_lossy().into());
        }
        for (key, value, default) in [
            ("max_pixels", ours.max_pixels, default.max_pixels),
            ("max_file_size", ours.max_file_bytes, default.max_file_bytes),
        ] {
            if value != default {
                summary.insert(key.to_owned(), value.into());
            }
        }
        summary
    }

    /// Fails if the settings rule out every image.
    ///
    /// # Errors
    /// `NoInput` when `images.root` is not a folder.
    pub(super) fn check(&self) -> Result<()> {
        match &self.images.root {
            Some(root) if !root.is_dir() => {
                let message = format!("`images.root`: `{}` is not a folder", root.display());
                Err(Error::new(ErrorKind::NoInput, message).hint("name the folder of the images"))
            }
            _ => Ok(()),
        }
    }

    /// The image at a path from a row.
    pub(super) fn at(&self, path: &str) -> Result<ImageSource> {
        let path = match path.split_once("://") {
            None => path,
            Some(("file", path)) => path,
            Some((scheme, _)) => {
                let message = format!("images are not fetched from URLs: `{scheme}://…`");
                return Err(Error::of_row(RowErrorKind::ImageRead, message)
                    .hint("use the paths of local files, or a column of encoded images"));
            }
        };
        Ok(ImageSource::Path(self.dir.join(path)))
    }

    /// Reads and decodes an image.
    ///
    /// # Errors
    /// `Data` when it cannot be read or decoded; those of `use_image`.
    pub(super) fn picture<T>(
        &self,
        image: &ImageSource,
        use_image: impl FnOnce(RgbImage) -> Result<T>,
    ) -> Result<T> {
        let decode = |bytes: &[u8]| {
            let max_pixels = self.images.max_pixels;
            RgbImage::decode_with(bytes, max_pixels, |image| Ok(use_image(image)))?
        };
        match image {
            ImageSource::Path(path) => self
                .read(path)
                .and_then(|bytes| decode(&bytes))
                .map_err(|e| e.at(format!("image `{}`", path.display()))),
            ImageSource::Bytes(bytes) => decode(&bytes.buffer).map_err(|e| e.at(&bytes.place)),
        }
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        let refused = |message: String| Error::of_row(RowErrorKind::ImageRead, message);
        let failed = |e: io::Error| refused("cannot read the file".to_owned()).source(e);
        let file = self.open(path)?;
        let found = file.metadata().map_err(failed)?;
        if !found.is_file() {
            return Err(refused("not a regular file".to_owned()));
        }
        let most = self.images.max_file_bytes;
        let too_large = || {
            refused(format!("the file is larger than {most} bytes"))
                .hint("set a larger `images.max_file_size`")
        };
        if found.len() > most {
            return Err(too_large());
        }
        // Some system files report a size of zero, and others grow.
        let mut bytes = Vec::with_capacity(found.len() as usize + 1);
        file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > most { Err(too_large()) } else { Ok(bytes) }
    }

    /// Opens a path without blocking on a pipe, and without acquiring a controlling terminal.
    fn open(&self, path: &Path) -> Result<File> {
        let failed =
            |e: io::Error| Error::of_row(RowErrorKind::ImageRead, "cannot read the file").source(e);
        let mut flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let mut real = path.to_owned();
        if let Some(root) = &self.images.root {
            let root = fs::canonicalize(root).map_err(failed)?;
            real = fs::canonicalize(path).map_err(failed)?;
            if !real.starts_with(&root) {
                let message = "the image is outside `images.root`";
                return Err(Error::of_row(RowErrorKind::ImageRead, message)
                    .hint("images must be in `images.root`, also after following symbolic links"));
            }
            // Does not follow a link that has replaced the path in the meantime.
            flags |= libc::O_NOFOLLOW;
        }
        // Checked before opening, because opening a device may have side effects.
        if !fs::metadata(&real).map_err(failed)?.is_file() {
            return Err(Error::of_row(RowErrorKind::ImageRead, "not a regular file"));
        }
        OpenOptions::new().read(true).custom_flags(flags).open(real).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    fn input(dir: &Path, root: Option<&str>, max_file_bytes: u64) -> ImageInput {
        let root = root.map(|root| dir.join(root));
        ImageInput::new(
            dir.to_owned(),
            ImagesSpec { root, max_file_bytes, ..ImagesSpec::default() },
        )
    }

    fn bmp() -> Vec<u8> {
        let mut bytes =
            b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\x18\0".to_vec();
        bytes.resize(54, 0);
        bytes.extend([3, 2, 1, 0]);
        bytes
    }

    #[test]
    fn only_regular_files_of_some_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        fs::write(dir.join("a.bmp"), bmp()).unwrap();
        assert!(Command::new("mkfifo").arg(dir.join("pipe")).status().unwrap().success());
        let sparse = File::create(dir.join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let input = input(dir, None, 1 << 20);
        let read = |path: &str| {
            let image = input.at(path).unwrap();
            input.picture(&image, |image| Ok(image.pixels().to_vec()))
        };
        for path in ["a.bmp", "./a.bmp", dir.join("a.bmp").to_str().unwrap()] {
            assert_eq!(read(path).unwrap(), [1, 2, 3]);
        }
        for (path, expected) in [
            ("pipe", "not a regular file"),
            ("/dev/zero", "not a regular file"),
            (".", "not a regular file"),
            ("sparse", "the file is larger than 1048576 bytes"),
            ("gone.png", "cannot read the file"),
        ] {
            let error = read(path).unwrap_err();
            assert_eq!(error.row_kind(), Some(RowErrorKind::ImageRead), "{path}: {error}");
            assert_eq!(error.message(), expected, "{path}");
        }
    }

    #[test]
    fn a_root_confines_paths_and_links() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        fs::create_dir_all(dir.join("images/deep")).unwrap();
        for file in ["images/deep/a.bmp", "secret.bmp"] {
            fs::write(dir.join(file), bmp()).unwrap();
        }
        symlink(dir.join("secret.bmp"), dir.join("images/link.bmp")).unwrap();
        symlink(dir, dir.join("images/up")).unwrap();
        symlink("deep/a.bmp", dir.join("images/inside.bmp")).unwrap();
        let confined = input(dir, Some("images"), 1 << 20);
        confined.check().unwrap();
        let read = |path: &str| confined.picture(&confined.at(path).unwrap(), |_| Ok(()));
        for path in ["images/deep/a.bmp", "images/inside.bmp", "images/deep/../deep/a.bmp"] {
            read(path).unwrap();
        }
        let absolute = dir.join("secret.bmp");
        for path in [
            "secret.bmp",
            "images/../secret.bmp",
            "images/link.bmp",
            "images/up/secret.bmp",
            absolute.to_str().unwrap(),
            "/etc/passwd",
        ] {
            let error = read(path).unwrap_err();
            assert_eq!(error.message(), "the image is outside `images.root`", "{path}");
        }
        let error = input(dir, Some("nowhere"), 1).check().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoInput);
    }
}
