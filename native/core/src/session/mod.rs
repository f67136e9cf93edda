//! One ONNX Runtime session of one executing thread: single-threaded runs, with one row bound to buffers made once.

mod library;
mod value;

use std::ffi::CString;

use ort::sys;
use thiserror::Error;

use self::library::{Handle, check, text};
pub use self::library::{Library, LibraryError, RuntimeFailure};
use self::value::{Buffer, Input};
use crate::call::Tensor;
use crate::plan::{Datatype, TensorSpec};

/// Why a model makes no session.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SessionError {
    /// The runtime does not take it.
    #[error("{0}")]
    Load(RuntimeFailure),
    /// Its tensors are not those of the schema.
    #[error("the model's {what}s are {found}, its manifest says {declared}")]
    Names {
        /// Input or output.
        what: &'static str,
        /// In the model, in its order.
        found: String,
        /// In the schema.
        declared: String,
    },
}

impl From<RuntimeFailure> for SessionError {
    fn from(failure: RuntimeFailure) -> Self {
        Self::Load(failure)
    }
}

/// Runs one model, on one thread at a time.
#[derive(Debug)]
pub struct Session {
    // Before the session, whose names and allocators it uses.
    one_row: Option<OneRow>,
    input_names: Vec<CString>,
    output_names: Vec<CString>,
    outputs: Vec<TensorSpec>,
    run_options: Handle<sys::OrtRunOptions>,
    cpu: Handle<sys::OrtMemoryInfo>,
    session: Handle<sys::OrtSession>,
    api: &'static sys::OrtApi,
    #[cfg(test)]
    _probe: probe::Probe,
}

// SAFETY: everything in it is owned by it alone and bound to no thread; it is used through `&mut` only.
unsafe impl Send for Session {}

#[derive(Debug)]
struct OneRow {
    // Before the buffers that it leads to.
    binding: Handle<sys::OrtIoBinding>,
    inputs: Vec<Buffer>,
    outputs: Vec<Buffer>,
}

impl Session {
    /// Loads a model from its bytes. Slow.
    pub fn new(
        library: &'static Library,
        model: &[u8],
        inputs: &[TensorSpec],
        outputs: &[TensorSpec],
    ) -> Result<Self, SessionError> {
        let api = library.api;
        let options = options(api)?;
        // SAFETY: environment, bytes and options live through the call; the bytes are copied.
        let session = unsafe {
            Handle::make(api, api.ReleaseSession, |out| {
                (api.CreateSessionFromArray)(
                    library.environment.as_ptr(),
                    model.as_ptr().cast(),
                    model.len(),
                    options.get(),
                    out,
                )
            })?
        };
        require_names(
            "input",
            &names(api, &session, api.SessionGetInputCount, api.SessionGetInputName)?,
            inputs,
        )?;
        require_names(
            "output",
            &names(api, &session, api.SessionGetOutputCount, api.SessionGetOutputName)?,
            outputs,
        )?;
        // SAFETY: the out pointer is all that these take.
        let run_options =
            unsafe { Handle::make(api, api.ReleaseRunOptions, |out| (api.CreateRunOptions)(out))? };
        // SAFETY: as above.
        let cpu = unsafe {
            Handle::make(api, api.ReleaseMemoryInfo, |out| {
                let (allocator, memory) = (
                    sys::OrtAllocatorType::OrtDeviceAllocator,
                    sys::OrtMemType::OrtMemTypeDefault,
                );
                (api.CreateCpuMemoryInfo)(allocator, memory, out)
            })?
        };
        let mut made = Self {
            one_row: None,
            input_names: c_names(inputs)?,
            output_names: c_names(outputs)?,
            outputs: outputs.to_vec(),
            run_options,
            cpu,
            session,
            api,
            #[cfg(test)]
            _probe: probe::Probe,
        };
        made.one_row = made.bind(inputs, outputs)?;
        Ok(made)
    }

    /// Runs any number of rows; inputs and outputs are in the order of the schema.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RuntimeFailure> {
        if let Some(row) = &mut self.one_row
            && row.inputs.len() == inputs.len()
            && row
                .inputs
                .iter_mut()
                .zip(inputs)
                .all(|(buffer, tensor)| buffer.take(tensor))
        {
            // SAFETY: session, options and binding are of one another and live through the call, which no other
            // thread makes meanwhile; the buffers are bound and borrowed by nobody.
            let status = unsafe {
                (self.api.RunWithBinding)(self.session.get(), self.run_options.get(), row.binding.get())
            };
            // Outputs of another shape than declared do not fit the buffers; the checks on outputs speak of them.
            if check(self.api, status).is_ok() {
                return Ok(row.outputs.iter().map(Buffer::give).collect());
            }
        }
        self.run_any(inputs)
    }

    fn run_any(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RuntimeFailure> {
        let api = self.api;
        if inputs.len() != self.input_names.len() {
            return Err(RuntimeFailure(format!(
                "{} inputs are given, not {}",
                inputs.len(),
                self.input_names.len()
            )));
        }
        // SAFETY: `inputs` is borrowed until the end of this function, and these are dropped in it.
        let fed = unsafe {
            inputs
                .iter()
                .map(|tensor| Input::new(api, &self.cpu, tensor))
                .collect::<Result<Vec<_>, _>>()?
        };
        let values: Vec<_> = fed.iter().map(|input| input.value.get().cast_const()).collect();
        let input_names: Vec<_> = self.input_names.iter().map(|name| name.as_ptr()).collect();
        let output_names: Vec<_> = self.output_names.iter().map(|name| name.as_ptr()).collect();
        let mut found = vec![std::ptr::null_mut(); output_names.len()];
        // SAFETY: every array lives through the call and is as long as said; null outputs are made by the runtime.
        let status = unsafe {
            (api.Run)(
                self.session.get(),
                self.run_options.get(),
                input_names.as_ptr(),
                values.as_ptr(),
                values.len(),
                output_names.as_ptr(),
                output_names.len(),
                found.as_mut_ptr(),
            )
        };
        let ran = check(api, status);
        // Taken before the result is looked at, so that all are released.
        let found: Vec<_> = found
            .into_iter()
            // SAFETY: each is null, or a value that the runtime made for the caller.
            .map(|pointer| unsafe {
                Handle::make(api, api.ReleaseValue, |out| {
                    *out = pointer;
                    sys::OrtStatusPtr(std::ptr::null_mut())
                })
            })
            .collect();
        ran?;
        let mut outputs = Vec::with_capacity(found.len());
        for (value, spec) in found.into_iter().zip(&self.outputs) {
            outputs.push(value::read(api, &value?, spec)?);
        }
        Ok(outputs)
    }

    /// Binds one row, where the schema fixes its shapes and every element has a size.
    fn bind(&self, inputs: &[TensorSpec], outputs: &[TensorSpec]) -> Result<Option<OneRow>, RuntimeFailure> {
        let api = self.api;
        if inputs
            .iter()
            .chain(outputs)
            .any(|spec| one_row_shape(spec).is_none())
        {
            return Ok(None);
        }
        let buffers = |specs: &[TensorSpec]| {
            let zeros = |spec| {
                let shape = one_row_shape(spec).unwrap_or_default();
                Buffer::zeros(api, &self.cpu, spec.datatype, shape)
            };
            specs.iter().map(zeros).collect::<Result<Vec<_>, _>>()
        };
        let (inputs, outputs) = (buffers(inputs)?, buffers(outputs)?);
        // SAFETY: the session lives through the call, and longer than the binding.
        let binding = unsafe {
            Handle::make(api, api.ReleaseIoBinding, |out| {
                (api.CreateIoBinding)(self.session.get(), out)
            })?
        };
        for (name, buffer) in self.input_names.iter().zip(&inputs) {
            // SAFETY: the name lives through the call; the value's memory outlives the binding.
            check(api, unsafe {
                (api.BindInput)(binding.get(), name.as_ptr(), buffer.value())
            })?;
        }
        for (name, buffer) in self.output_names.iter().zip(&outputs) {
            // SAFETY: as above.
            check(api, unsafe {
                (api.BindOutput)(binding.get(), name.as_ptr(), buffer.value())
            })?;
        }
        Ok(Some(OneRow {
            binding,
            inputs,
            outputs,
        }))
    }
}

/// The shape of one row, or None where it is not fixed or the elements have no fixed size.
fn one_row_shape(spec: &TensorSpec) -> Option<Vec<i64>> {
    let mut shape = spec.shape.clone();
    if let Some(rows) = shape.first_mut()
        && *rows == -1
    {
        *rows = 1;
    }
    (spec.datatype != Datatype::Bytes && !shape.contains(&-1)).then_some(shape)
}

/// One thread that neither spins nor keeps an arena, and says nothing: the same as in Python.
fn options(api: &'static sys::OrtApi) -> Result<Handle<sys::OrtSessionOptions>, RuntimeFailure> {
    // SAFETY: the out pointer is all that this takes.
    let options = unsafe {
        Handle::make(api, api.ReleaseSessionOptions, |out| {
            (api.CreateSessionOptions)(out)
        })?
    };
    let set = options.get();
    // SAFETY: the options are live, and so are the terminated texts.
    unsafe {
        check(api, (api.SetIntraOpNumThreads)(set, 1))?;
        check(api, (api.SetInterOpNumThreads)(set, 1))?;
        check(
            api,
            (api.SetSessionExecutionMode)(set, sys::ExecutionMode::ORT_SEQUENTIAL),
        )?;
        check(api, (api.DisableCpuMemArena)(set))?;
        check(api, (api.SetSessionLogSeverityLevel)(set, 4))?;
        check(
            api,
            (api.AddSessionConfigEntry)(set, c"session.intra_op.allow_spinning".as_ptr(), c"0".as_ptr()),
        )?;
    }
    Ok(options)
}

type CountOf = unsafe extern "system" fn(*const sys::OrtSession, *mut usize) -> sys::OrtStatusPtr;
type NameOf = unsafe extern "system" fn(
    *const sys::OrtSession,
    usize,
    *mut sys::OrtAllocator,
    *mut *mut std::ffi::c_char,
) -> sys::OrtStatusPtr;

fn names(
    api: &sys::OrtApi,
    session: &Handle<sys::OrtSession>,
    count_of: CountOf,
    name_of: NameOf,
) -> Result<Vec<String>, RuntimeFailure> {
    let (mut count, mut allocator) = (0, std::ptr::null_mut());
    // SAFETY: the session lives through the calls; the default allocator is never released.
    unsafe {
        check(api, count_of(session.get(), &raw mut count))?;
        check(api, (api.GetAllocatorWithDefaultOptions)(&raw mut allocator))?;
    }
    let mut names = Vec::with_capacity(count);
    for index in 0..count {
        let mut name = std::ptr::null_mut();
        // SAFETY: the index is below the count; the name is terminated, owned, and freed once, after it was copied.
        unsafe {
            check(api, name_of(session.get(), index, allocator, &raw mut name))?;
            names.push(text(name));
            check(api, (api.AllocatorFree)(allocator, name.cast()))?;
        }
    }
    Ok(names)
}

fn require_names(what: &'static str, found: &[String], declared: &[TensorSpec]) -> Result<(), SessionError> {
    let mut sorted: Vec<&str> = found.iter().map(String::as_str).collect();
    let mut wanted: Vec<&str> = declared.iter().map(|spec| spec.name.as_str()).collect();
    let said = wanted.join(", ");
    sorted.sort_unstable();
    wanted.sort_unstable();
    if sorted == wanted {
        return Ok(());
    }
    Err(SessionError::Names {
        what,
        found: found.join(", "),
        declared: said,
    })
}

fn c_names(specs: &[TensorSpec]) -> Result<Vec<CString>, RuntimeFailure> {
    let name = |spec: &TensorSpec| CString::new(spec.name.as_str());
    let names: Result<_, _> = specs.iter().map(name).collect();
    names.map_err(|_| RuntimeFailure("a tensor's name holds a zero byte".to_owned()))
}

/// Tells tests which threads freed sessions.
#[cfg(test)]
pub(crate) mod probe {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    pub(crate) static FREED_ON: Mutex<Vec<Option<String>>> = Mutex::new(Vec::new());
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    /// Begins anew, for a test that counts: no other one does meanwhile.
    pub(crate) fn begin() -> MutexGuard<'static, ()> {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        FREED_ON.lock().unwrap().clear();
        alone
    }

    #[derive(Debug)]
    pub(super) struct Probe;

    impl Drop for Probe {
        fn drop(&mut self) {
            let thread = std::thread::current().name().map(str::to_owned);
            FREED_ON.lock().unwrap().push(thread);
        }
    }
}
