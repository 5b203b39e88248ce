//! The reduced ResNet-18 of online continual learning: Lopez-Paz & Ranzato (NeurIPS 2017) cut He et
//! al.'s network down to a 3×3 stem, no max-pooling and `nf` filters in the first stage.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use everburn_backend::kernels::{add, relu};
use everburn_core::{Checker, Key, Result};

use crate::layers::{BatchNorm2d, BatchStatistics, Conv2d, Norm};

/// Two 3×3 convolutions and a shortcut.
#[derive(Module, Debug)]
pub struct BasicBlock {
    /// 3×3, stride s.
    pub conv1: Conv2d,
    /// After `conv1`.
    pub bn1: BatchNorm2d,
    /// 3×3, stride 1.
    pub conv2: Conv2d,
    /// After `conv2`.
    pub bn2: BatchNorm2d,
    /// A 1×1 convolution of stride s with its norm where the sizes change, else the identity.
    pub shortcut: Option<(Conv2d, BatchNorm2d)>,
}

impl BasicBlock {
    fn new(inputs: usize, outputs: usize, stride: usize, key: Key, device: &Device) -> Self {
        let conv = |name, inputs, kernel, stride, padding| {
            let key = key.child(name);
            Conv2d::new([inputs, outputs], kernel, stride, padding, key, device)
        };
        let shortcut = (stride != 1 || inputs != outputs).then(|| {
            let conv = conv("shortcut", inputs, 1, stride, 0);
            (conv, BatchNorm2d::new(outputs, device))
        });
        Self {
            conv1: conv("conv1", inputs, 3, stride, 1),
            bn1: BatchNorm2d::new(outputs, device),
            conv2: conv("conv2", outputs, 3, 1, 1),
            bn2: BatchNorm2d::new(outputs, device),
            shortcut,
        }
    }

    fn forward(&self, x: Tensor<4>, norm: &mut Norm<'_>) -> Tensor<4> {
        let inner = relu(self.bn1.forward(self.conv1.forward(x.clone()), norm));
        let inner = self.bn2.forward(self.conv2.forward(inner), norm);
        let shortcut = match &self.shortcut {
            Some((conv, bn)) => bn.forward(conv.forward(x), norm),
            None => x,
        };
        relu(add(inner, shortcut))
    }

    /// In the order in which `forward` uses them.
    fn norms_mut(&mut self) -> impl Iterator<Item = &mut BatchNorm2d> {
        let shortcut = self.shortcut.as_mut().map(|(_, bn)| bn);
        [&mut self.bn1, &mut self.bn2].into_iter().chain(shortcut)
    }
}

/// The reduced ResNet-18 without a head.
#[derive(Module, Debug)]
pub struct ResNet18 {
    /// 3×3, 3 → nf.
    pub conv1: Conv2d,
    /// After the stem.
    pub bn1: BatchNorm2d,
    /// nf filters, stride 1.
    pub layer1: Vec<BasicBlock>,
    /// 2·nf filters, stride 2.
    pub layer2: Vec<BasicBlock>,
    /// 4·nf filters, stride 2.
    pub layer3: Vec<BasicBlock>,
    /// 8·nf filters, stride 2.
    pub layer4: Vec<BasicBlock>,
    #[module(skip)]
    filters: usize,
}

impl ResNet18 {
    /// Random weights as PyTorch draws them. `filters` is nf: 20 in most online work, 64 in OnPro.
    ///
    /// # Errors
    /// If there are no filters.
    pub fn new(filters: usize, key: Key, device: &Device) -> Result<Self> {
        Checker::new("resnet18").positive("filters", filters)?;
        let layer = |index: u64, inputs: usize, outputs: usize, stride: usize| {
            let key = key.child("layer").at(index);
            vec![
                BasicBlock::new(inputs, outputs, stride, key.at(0), device),
                BasicBlock::new(outputs, outputs, 1, key.at(1), device),
            ]
        };
        let nf = filters;
        Ok(Self {
            conv1: Conv2d::new([3, nf], 3, 1, 1, key.child("stem"), device),
            bn1: BatchNorm2d::new(nf, device),
            layer1: layer(1, nf, nf, 1),
            layer2: layer(2, nf, 2 * nf, 2),
            layer3: layer(3, 2 * nf, 4 * nf, 2),
            layer4: layer(4, 4 * nf, 8 * nf, 2),
            filters,
        })
    }

    /// nf.
    pub fn filters(&self) -> usize {
        self.filters
    }

    /// Width of a feature: 8·nf.
    pub fn dim(&self) -> usize {
        8 * self.filters
    }

    /// The outputs of the four stages for images `[batch, 3, height, width]`.
    pub fn stages(&self, images: Tensor<4>, norm: &mut Norm<'_>) -> [Tensor<4>; 4] {
        let stem = relu(self.bn1.forward(self.conv1.forward(images), norm));
        let mut run = |x: Tensor<4>, layer: &[BasicBlock]| {
            layer.iter().fold(x, |x, block| block.forward(x, norm))
        };
        let one = run(stem, &self.layer1);
        let two = run(one.clone(), &self.layer2);
        let three = run(two.clone(), &self.layer3);
        let four = run(three.clone(), &self.layer4);
        [one, two, three, four]
    }

    /// Images `[batch, 3, height, width]` to features `[batch, 8·nf]`: the last stage, averaged over
    /// its pixels whatever their number.
    pub fn forward(&self, images: Tensor<4>, norm: &mut Norm<'_>) -> Tensor<2> {
        let [.., last] = self.stages(images, norm);
        let [batch, channels, ..] = last.dims();
        last.mean_dim(3).mean_dim(2).reshape([batch, channels])
    }

    /// Moves all running statistics by those that a forward pass in train mode has gathered.
    pub fn absorb(&mut self, statistics: Vec<BatchStatistics>) {
        let layers = [
            &mut self.layer1,
            &mut self.layer2,
            &mut self.layer3,
            &mut self.layer4,
        ];
        let blocks = layers.into_iter().flatten();
        let norms = std::iter::once(&mut self.bn1).chain(blocks.flat_map(BasicBlock::norms_mut));
        for (norm, batch) in norms.zip(statistics) {
            norm.absorb(batch);
        }
    }

    /// Multiply-accumulate operations of a forward pass for one image of `side` × `side` pixels.
    pub fn macs(&self, side: usize) -> u64 {
        let nf = self.filters as u64;
        let mut pixels = (side * side) as u64;
        let mut macs = pixels * 27 * nf;
        let (mut inputs, mut side) = (nf, side);
        for (index, width) in [nf, 2 * nf, 4 * nf, 8 * nf].into_iter().enumerate() {
            if index > 0 {
                side = side.div_ceil(2);
                pixels = (side * side) as u64;
                macs += pixels * inputs * width;
            }
            macs += pixels * 9 * (inputs * width + 3 * width * width);
            inputs = width;
        }
        macs
    }
}
