//! ONNX Runtime's library: loaded once in a process, found by its path, called through its C interface.

use std::ffi::{CStr, c_char};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::{Mutex, OnceLock, PoisonError};

use ort::sys;
use thiserror::Error;

static LIBRARY: OnceLock<Library> = OnceLock::new();
static LOADING: Mutex<()> = Mutex::new(());

/// ONNX Runtime, ready to make sessions. It stays for the life of the process.
#[derive(Debug)]
pub struct Library {
    pub(super) api: &'static sys::OrtApi,
    pub(super) environment: NonNull<sys::OrtEnv>,
    version: String,
}

// SAFETY: the environment is made to be shared: sessions may be created of it on any thread, and nothing else is done
// with it. The interface is a table of functions.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

/// Why there is no ONNX Runtime.
#[derive(Debug, Error)]
pub enum LibraryError {
    /// No such file, not a library, or one that is too old.
    #[error("cannot load ONNX Runtime from {path}: {reason}")]
    Load {
        /// Of the library.
        path: String,
        /// As the loader tells it.
        reason: String,
    },
    /// It is loaded and does not start.
    #[error("ONNX Runtime from {path} does not start: {reason}")]
    Start {
        /// Of the library.
        path: String,
        /// In its own words.
        reason: String,
    },
}

/// What ONNX Runtime says is wrong.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct RuntimeFailure(pub String);

impl Library {
    /// Loads the library at `path`, once: later calls give what the first one loaded.
    pub fn load(path: &Path) -> Result<&'static Self, LibraryError> {
        let _one_at_a_time = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = LIBRARY.get() {
            return Ok(library);
        }
        let shown = || path.display().to_string();
        // Holds the version against the oldest that is supported; the environment that it could make logs to stderr.
        drop(ort::init_from(path).map_err(|error| LibraryError::Load {
            path: shown(),
            reason: error.to_string(),
        })?);
        let api = ort::api();
        let mut environment = ptr::null_mut();
        // SAFETY: the out pointer and the name, which is terminated, live through the call.
        let status = unsafe {
            (api.CreateEnv)(
                sys::OrtLoggingLevel::ORT_LOGGING_LEVEL_FATAL,
                c"tickserve".as_ptr(),
                &raw mut environment,
            )
        };
        check(api, status).map_err(|error| LibraryError::Start {
            path: shown(),
            reason: error.0,
        })?;
        let environment = NonNull::new(environment).ok_or_else(|| LibraryError::Start {
            path: shown(),
            reason: "it made no environment".to_owned(),
        })?;
        Ok(LIBRARY.get_or_init(|| Self {
            api,
            environment,
            version: version(path),
        }))
    }

    /// As the library calls itself, such as 1.31.0.
    pub fn version(&self) -> &str {
        &self.version
    }
}

/// Something of ONNX Runtime's that is released when it goes.
#[derive(Debug)]
pub(super) struct Handle<T> {
    pointer: NonNull<T>,
    release: unsafe extern "system" fn(*mut T),
}

impl<T> Handle<T> {
    /// Takes what a function of the interface made, and the function that releases it.
    ///
    /// # Safety
    /// `make` writes a pointer that the caller owns, or gives an error; `release` is the release function of its type.
    pub(super) unsafe fn make(
        api: &sys::OrtApi,
        release: unsafe extern "system" fn(*mut T),
        make: impl FnOnce(*mut *mut T) -> sys::OrtStatusPtr,
    ) -> Result<Self, RuntimeFailure> {
        let mut pointer = ptr::null_mut();
        check(api, make(&raw mut pointer))?;
        let pointer =
            NonNull::new(pointer).ok_or_else(|| RuntimeFailure("ONNX Runtime gave nothing".to_owned()))?;
        Ok(Self { pointer, release })
    }

    pub(super) fn get(&self) -> *mut T {
        self.pointer.as_ptr()
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer is owned and is of this function's type, by the contract of `make`.
        unsafe { (self.release)(self.pointer.as_ptr()) };
    }
}

/// Turns a status into a result, and releases it.
pub(super) fn check(api: &sys::OrtApi, status: sys::OrtStatusPtr) -> Result<(), RuntimeFailure> {
    let Some(status) = NonNull::new(status.0) else {
        return Ok(());
    };
    // SAFETY: a status that is not null is one that the caller owns; its message is terminated and lives as long.
    let message = unsafe { text((api.GetErrorMessage)(status.as_ptr())) };
    // SAFETY: owned, and used no more.
    unsafe { (api.ReleaseStatus)(status.as_ptr()) };
    Err(RuntimeFailure(message))
}

/// A copy of a C string.
///
/// # Safety
/// `pointer` is null, or leads to a terminated string.
pub(super) unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: by the contract of this function.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

/// The version that the library at `path`, which is loaded already, gives itself.
fn version(path: &Path) -> String {
    let unknown = || "of unknown version".to_owned();
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()) else {
        return unknown();
    };
    // SAFETY: the path is terminated; this only counts one more use of a library that is there for good.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) };
    if library.is_null() {
        return unknown();
    }
    // SAFETY: the library is open and the name is terminated.
    let symbol = unsafe { libc::dlsym(library, c"OrtGetApiBase".as_ptr()) };
    if symbol.is_null() {
        return unknown();
    }
    // SAFETY: the symbol of this name has this type, in every version of the library.
    let base = unsafe {
        std::mem::transmute::<*mut libc::c_void, unsafe extern "C" fn() -> *const sys::OrtApiBase>(symbol)()
    };
    if base.is_null() {
        return unknown();
    }
    // SAFETY: the table is static, and so is the terminated string.
    unsafe { text(((*base).GetVersionString)()) }
}
