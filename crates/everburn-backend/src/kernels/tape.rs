//! Kernels on burn-flex's tensors, with or without a tape.

use std::fmt::Debug;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Flex, GradientCheckpointingStrategy};
use burn::tensor::{Bytes, DType, Device, Shape, Tensor};

/// An operation on `N` tensors of 32-bit floats, and its way back.
pub(crate) trait Kernel<const N: usize>: Copy + Debug + Send + 'static {
    /// What the way back needs.
    type Kept: Clone + Debug + Send + 'static;

    /// Without a tape: nothing need be kept, and an input that nobody else holds may be overwritten.
    fn forward(self, inputs: [FlexTensor; N]) -> FlexTensor;

    /// With a tape behind the inputs that are `tracked`.
    fn forward_kept(self, inputs: [FlexTensor; N], tracked: [bool; N]) -> (FlexTensor, Self::Kept);

    /// The gradients of the inputs that are `wanted`, from that of the output.
    fn backward(
        self,
        kept: Self::Kept,
        grad: FlexTensor,
        wanted: [bool; N],
    ) -> [Option<FlexTensor>; N];
}

/// A tensor of burn-flex.
pub(crate) enum OnFlex {
    Plain(FlexTensor),
    Taped(FloatTensor<Autodiff<Flex>>),
}

/// Whether a tensor is one that the kernels take: 32-bit floats on burn-flex, at least one, and if it has a
/// tape, one that keeps all activations.
pub(crate) fn is_ours<const D: usize>(tensor: &Tensor<D>) -> bool {
    let device = tensor.device();
    // Devices are equal whether or not they record a tape.
    let strategy = device.gradient_checkpointing_strategy();
    let keeps_all = strategy.is_none_or(|s| s == GradientCheckpointingStrategy::Disabled);
    let some = tensor.dims().iter().all(|side| *side > 0);
    some && tensor.dtype() == DType::F32 && device == Device::flex() && keeps_all
}

/// A tensor for which [`is_ours`] holds.
pub(crate) fn on_flex<const D: usize>(tensor: Tensor<D>) -> OnFlex {
    const OURS: &str = "checked by is_ours";
    if tensor.is_autodiff() {
        OnFlex::Taped(tensor.try_into_primitive::<Autodiff<Flex>>().expect(OURS))
    } else {
        OnFlex::Plain(tensor.try_into_primitive::<Flex>().expect(OURS))
    }
}

impl OnFlex {
    /// The tensor of rank `D`.
    pub(crate) fn tensor<const D: usize>(self) -> Tensor<D> {
        match self {
            Self::Plain(tensor) => Tensor::from_primitive::<Flex>(tensor),
            Self::Taped(tensor) => Tensor::from_primitive::<Autodiff<Flex>>(tensor),
        }
    }
}

/// Runs a kernel, on the tape if one of the inputs is.
pub(crate) fn run<K: Kernel<N>, const N: usize>(kernel: K, inputs: [OnFlex; N]) -> OnFlex {
    if inputs.iter().all(|input| matches!(input, OnFlex::Plain(_))) {
        let plain = inputs.map(|input| match input {
            OnFlex::Plain(tensor) => tensor,
            OnFlex::Taped(tensor) => tensor.into_primitive(),
        });
        return OnFlex::Plain(kernel.forward(plain));
    }
    let inputs = inputs.map(|input| match input {
        OnFlex::Plain(tensor) => Autodiff::<Flex>::from_inner(tensor),
        OnFlex::Taped(tensor) => tensor,
    });
    let tracked = inputs.each_ref().map(|input| input.is_tracked());
    let nodes = inputs.each_ref().map(|input| input.node());
    let inputs = inputs.map(|input| input.into_primitive());
    let prepared = WayBack(kernel)
        .prepare::<NoCheckpointing>(nodes)
        .compute_bound();
    OnFlex::Taped(match prepared.stateful() {
        OpsKind::Tracked(prepared) => {
            let (output, kept) = kernel.forward_kept(inputs, tracked);
            prepared.finish(kept, output)
        }
        OpsKind::UnTracked(prepared) => prepared.finish(kernel.forward(inputs)),
    })
}

#[derive(Debug)]
struct WayBack<K>(K);

impl<K: Kernel<N>, const N: usize> Backward<Flex, N> for WayBack<K> {
    type State = K::Kept;

    fn backward(self, ops: Ops<K::Kept, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node);
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let found = self.0.backward(ops.state, grad, wanted);
        for (node, grad) in ops.parents.into_iter().zip(found) {
            if let (Some(node), Some(grad)) = (node, grad) {
                grads.register::<Flex>(node.id, grad);
            }
        }
    }
}

/// A tensor of these values, row-major.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::new(
        Bytes::from_elems(values),
        Layout::contiguous(shape.into()),
        DType::F32,
    )
}

/// The sides of a tensor.
pub(crate) fn sides(tensor: &FlexTensor) -> Vec<usize> {
    tensor.layout().shape().to_vec()
}

/// The tensor, laid out row-major in a buffer of just its size. One that is so already is not shared
/// by this, so that it can be written to in place.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    let size = size_of::<f32>() * tensor.layout().num_elements();
    let whole = tensor.layout().start_offset() == 0 && tensor.bytes().len() == size;
    if whole && tensor.is_contiguous() {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

/// The values of a [`contiguous`] tensor, row-major.
pub(crate) fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.storage()
}

/// A [`contiguous`] tensor under another shape.
pub(crate) fn reshaped(tensor: FlexTensor, shape: impl Into<Shape>) -> FlexTensor {
    tensor.with_layout(Layout::contiguous(shape.into()))
}

/// A matrix `[rows, columns]` turned, without a copy.
pub(crate) fn turned(matrix: &FlexTensor) -> FlexTensor {
    let layout = matrix.layout().transpose(0, 1);
    matrix.clone().with_layout(layout)
}

/// A tensor of all rows and the last side: `[rows, width]`, [`contiguous`].
pub(crate) fn as_rows(tensor: FlexTensor) -> FlexTensor {
    let tensor = contiguous(tensor);
    let shape = sides(&tensor);
    let width = shape.last().copied().unwrap_or(1);
    let rows = shape.iter().rev().skip(1).product();
    reshaped(tensor, [rows, width])
}
