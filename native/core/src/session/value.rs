//! Tensors as ONNX Runtime holds them: made of ours, and read back.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use bytes::Bytes;
use ort::sys;

use super::library::{Handle, RuntimeFailure, check};
use crate::call::{Elements, Tensor};
use crate::plan::{Datatype, TensorSpec};

pub(super) type Value = Handle<sys::OrtValue>;

fn element_type(datatype: Datatype) -> sys::ONNXTensorElementDataType {
    use sys::ONNXTensorElementDataType as Type;
    match datatype {
        Datatype::Bool => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        Datatype::Uint8 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        Datatype::Uint16 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
        Datatype::Uint32 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
        Datatype::Uint64 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
        Datatype::Int8 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        Datatype::Int16 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        Datatype::Int32 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        Datatype::Int64 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        Datatype::Fp16 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        Datatype::Fp32 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        Datatype::Fp64 => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
        Datatype::Bytes => Type::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
    }
}

/// Elements of a tensor that ONNX Runtime reads or writes in place: aligned, at one address for life.
#[derive(Debug)]
pub(super) struct Buffer {
    // First, so that it goes before the memory it leads to.
    value: Value,
    memory: Memory,
    shape: Vec<i64>,
    datatype: Datatype,
}

impl Buffer {
    /// Zeros of a shape without open dimensions.
    pub(super) fn zeros(
        api: &sys::OrtApi,
        cpu: &Handle<sys::OrtMemoryInfo>,
        datatype: Datatype,
        shape: Vec<i64>,
    ) -> Result<Self, RuntimeFailure> {
        let memory = datatype
            .size()
            .and_then(|size| {
                shape
                    .iter()
                    .try_fold(size, |size, &n| size.checked_mul(usize::try_from(n).ok()?))
            })
            .and_then(Memory::zeros)
            .ok_or_else(|| RuntimeFailure(format!("one row of shape {shape:?} does not fit into memory")))?;
        // SAFETY: the memory outlives the value, by the order of the fields; its size is that of the shape.
        let value = unsafe { over(api, cpu, memory.pointer.as_ptr(), memory.size, datatype, &shape)? };
        Ok(Self {
            value,
            memory,
            shape,
            datatype,
        })
    }

    pub(super) fn value(&self) -> *const sys::OrtValue {
        self.value.get()
    }

    /// Takes a tensor's elements, where they are numbers of this shape; else says no.
    pub(super) fn take(&mut self, tensor: &Tensor) -> bool {
        let Elements::Numbers(data) = &tensor.elements else {
            return false;
        };
        if tensor.datatype != self.datatype || data.len() != self.memory.size || tensor.shape != self.shape {
            return false;
        }
        self.memory.bytes_mut().copy_from_slice(data);
        true
    }

    /// A copy of the elements.
    pub(super) fn give(&self) -> Tensor {
        Tensor {
            datatype: self.datatype,
            shape: self.shape.clone(),
            elements: Elements::Numbers(Bytes::copy_from_slice(self.memory.bytes())),
        }
    }
}

/// Zeroed bytes at a fixed address, aligned for any element and for vector instructions.
#[derive(Debug)]
struct Memory {
    pointer: NonNull<u8>,
    layout: Layout,
    size: usize,
}

// SAFETY: it owns its bytes alone.
unsafe impl Send for Memory {}

impl Memory {
    /// None where there is not as much.
    fn zeros(size: usize) -> Option<Self> {
        let layout = Layout::from_size_align(size.max(1), 64).ok()?;
        // SAFETY: the layout has a size.
        let pointer = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self {
            pointer,
            layout,
            size,
        })
    }

    // ONNX Runtime touches the bytes only inside a run, which takes the session that owns this mutably; so neither
    // of these borrows ever spans one.
    fn bytes(&self) -> &[u8] {
        // SAFETY: `size` bytes are allocated and were written at least by zeroing.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.size) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.size) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.pointer.as_ptr(), self.layout) };
    }
}

/// One input of one run. It must not outlive the tensor that it was made of.
pub(super) struct Input {
    pub(super) value: Value,
    // Elements that were not aligned in the message.
    _memory: Option<Memory>,
}

impl Input {
    /// Leads to the tensor's elements where they are aligned, else copies them.
    ///
    /// # Safety
    /// The tensor is neither changed nor dropped before the input.
    pub(super) unsafe fn new(
        api: &sys::OrtApi,
        cpu: &Handle<sys::OrtMemoryInfo>,
        tensor: &Tensor,
    ) -> Result<Self, RuntimeFailure> {
        let data = match (&tensor.elements, tensor.datatype.size()) {
            (Elements::Strings(strings), None) => {
                return Ok(Self {
                    value: strings_value(api, &tensor.shape, strings)?,
                    _memory: None,
                });
            }
            (Elements::Numbers(data), Some(size)) => (data, size),
            _ => {
                return Err(RuntimeFailure(
                    "the elements of a tensor are not of its datatype".to_owned(),
                ));
            }
        };
        let (data, size) = data;
        let expected = tensor
            .shape
            .iter()
            .try_fold(size, |all, &n| all.checked_mul(usize::try_from(n).ok()?));
        if expected != Some(data.len()) {
            return Err(RuntimeFailure(
                "the elements of a tensor are not as many as its shape says".to_owned(),
            ));
        }
        let mut memory = None;
        let mut pointer = data.as_ptr().cast_mut();
        if data.is_empty() || pointer.align_offset(size) != 0 {
            let mut copy = Memory::zeros(data.len())
                .ok_or_else(|| RuntimeFailure("a tensor does not fit into memory".to_owned()))?;
            copy.bytes_mut().copy_from_slice(data);
            pointer = copy.pointer.as_ptr();
            memory = Some(copy);
        }
        // SAFETY: the elements live in the tensor, by this function's contract, or in `memory`, which goes after the
        // value; they are as long as the shape says. The runtime never writes to what a session is fed with.
        let value = unsafe { over(api, cpu, pointer, data.len(), tensor.datatype, &tensor.shape)? };
        Ok(Self {
            value,
            _memory: memory,
        })
    }
}

/// A value over memory of ours.
///
/// # Safety
/// `size` bytes at `pointer` outlive the value and are the elements of a tensor of this shape.
unsafe fn over(
    api: &sys::OrtApi,
    cpu: &Handle<sys::OrtMemoryInfo>,
    pointer: *mut u8,
    size: usize,
    datatype: Datatype,
    shape: &[i64],
) -> Result<Value, RuntimeFailure> {
    // SAFETY: the shape lives through the call, the memory as the contract of this function says.
    unsafe {
        Handle::make(api, api.ReleaseValue, |out| {
            let kind = element_type(datatype);
            (api.CreateTensorWithDataAsOrtValue)(
                cpu.get(),
                pointer.cast(),
                size,
                shape.as_ptr(),
                shape.len(),
                kind,
                out,
            )
        })
    }
}

fn strings_value(api: &sys::OrtApi, shape: &[i64], strings: &[String]) -> Result<Value, RuntimeFailure> {
    let count = shape
        .iter()
        .try_fold(1_usize, |all, &n| all.checked_mul(usize::try_from(n).ok()?));
    if count != Some(strings.len()) {
        return Err(RuntimeFailure(
            "the elements of a tensor are not as many as its shape says".to_owned(),
        ));
    }
    let mut allocator = std::ptr::null_mut();
    // SAFETY: the out pointer lives through the call; the default allocator is never released.
    check(api, unsafe {
        (api.GetAllocatorWithDefaultOptions)(&raw mut allocator)
    })?;
    // SAFETY: allocator and shape live through the call.
    let value = unsafe {
        Handle::make(api, api.ReleaseValue, |out| {
            let kind = element_type(Datatype::Bytes);
            (api.CreateTensorAsOrtValue)(allocator, shape.as_ptr(), shape.len(), kind, out)
        })?
    };
    for (index, string) in strings.iter().enumerate() {
        let mut buffer = std::ptr::null_mut();
        // SAFETY: the value is a tensor of strings with as many elements; the runtime makes room of this length.
        check(api, unsafe {
            (api.GetResizedStringTensorElementBuffer)(value.get(), index, string.len(), &raw mut buffer)
        })?;
        // SAFETY: the buffer has room for the string, as just asked for, and is apart from it.
        unsafe { std::ptr::copy_nonoverlapping(string.as_ptr(), buffer.cast(), string.len()) };
    }
    Ok(value)
}

/// A copy of an output, which must be of its declared datatype.
pub(super) fn read(api: &sys::OrtApi, value: &Value, spec: &TensorSpec) -> Result<Tensor, RuntimeFailure> {
    let mut is_tensor = 0;
    // SAFETY: the value lives through the call.
    check(api, unsafe { (api.IsTensor)(value.get(), &raw mut is_tensor) })?;
    if is_tensor == 0 {
        return Err(RuntimeFailure(format!("output {} is no tensor", spec.name)));
    }
    // SAFETY: the value is a tensor and lives through the call.
    let info = unsafe {
        Handle::make(api, api.ReleaseTensorTypeAndShapeInfo, |out| {
            (api.GetTensorTypeAndShape)(value.get(), out)
        })?
    };
    // A number, and not the enumeration: a newer runtime may know more of them.
    let mut kind = 0_i32;
    // SAFETY: the enumeration is represented as an i32.
    check(api, unsafe {
        (api.GetTensorElementType)(info.get(), (&raw mut kind).cast())
    })?;
    if kind != element_type(spec.datatype) as i32 {
        return Err(RuntimeFailure(format!(
            "output {} has datatype number {kind}",
            spec.name
        )));
    }
    let mut rank = 0;
    // SAFETY: the out pointer lives through the call.
    check(api, unsafe {
        (api.GetDimensionsCount)(info.get(), &raw mut rank)
    })?;
    let mut shape = vec![0_i64; rank];
    // SAFETY: there is room for `rank` dimensions.
    check(api, unsafe {
        (api.GetDimensions)(info.get(), shape.as_mut_ptr(), rank)
    })?;
    let mut count = 0;
    // SAFETY: the out pointer lives through the call.
    check(api, unsafe {
        (api.GetTensorShapeElementCount)(info.get(), &raw mut count)
    })?;
    let elements = match spec.datatype.size() {
        Some(size) => Elements::Numbers(read_numbers(api, value, count * size)?),
        None => Elements::Strings(read_strings(api, value, count, spec)?),
    };
    Ok(Tensor {
        datatype: spec.datatype,
        shape,
        elements,
    })
}

fn read_numbers(api: &sys::OrtApi, value: &Value, size: usize) -> Result<Bytes, RuntimeFailure> {
    if size == 0 {
        return Ok(Bytes::new());
    }
    let mut data = std::ptr::null_mut();
    // SAFETY: the value is a tensor; the pointer leads into it.
    check(api, unsafe {
        (api.GetTensorMutableData)(value.get(), &raw mut data)
    })?;
    if data.is_null() {
        return Err(RuntimeFailure("an output holds nothing".to_owned()));
    }
    // SAFETY: a tensor of numbers holds its elements without gaps, `size` bytes, until it is released.
    Ok(Bytes::copy_from_slice(unsafe {
        std::slice::from_raw_parts(data.cast::<u8>(), size)
    }))
}

fn read_strings(
    api: &sys::OrtApi,
    value: &Value,
    count: usize,
    spec: &TensorSpec,
) -> Result<Vec<String>, RuntimeFailure> {
    let mut strings = Vec::with_capacity(count);
    for index in 0..count {
        let mut size = 0;
        // SAFETY: the value is a tensor of strings with more than `index` elements.
        check(api, unsafe {
            (api.GetStringTensorElementLength)(value.get(), index, &raw mut size)
        })?;
        let mut bytes = vec![0_u8; size];
        // SAFETY: there is room for the element, whose length was just asked.
        check(api, unsafe {
            (api.GetStringTensorElement)(value.get(), size, index, bytes.as_mut_ptr().cast())
        })?;
        let string = String::from_utf8(bytes).map_err(|_| {
            RuntimeFailure(format!("output {}, element {index} is not UTF-8 text", spec.name))
        })?;
        strings.push(string);
    }
    Ok(strings)
}
