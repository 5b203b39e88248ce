//! Where learners are tested: devices, small backbones, toy images and toy streams.

use everburn_backend::{Device, DeviceChoice, DeviceKind};
use everburn_core::{ClassId, Error, ImageShape, Images, Key, Result, SeenClasses, TaskId};
use everburn_nn::vit::VitConfig;
use everburn_nn::{Backbone, Frozen, Normalise, Tuning};
use everburn_run::{Labelled, Material};
use everburn_stream::{Manifest, ManifestTask};

/// A device and what a learner is to train on it.
pub struct Lab {
    choice: DeviceChoice,
    device: Device,
    tuning: Tuning,
    shape: ImageShape,
}

impl Lab {
    pub(crate) fn new(
        choice: DeviceChoice,
        device: Device,
        tuning: Tuning,
        shape: ImageShape,
    ) -> Self {
        Self {
            choice,
            device,
            tuning,
            shape,
        }
    }

    /// The device's name.
    pub fn choice(&self) -> DeviceChoice {
        self.choice
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether results repeat to the byte on this device.
    pub fn is_exact(&self) -> bool {
        self.choice.kind == DeviceKind::Cpu
    }

    /// What is to be trained.
    pub fn tuning(&self) -> Tuning {
        self.tuning
    }

    /// A backbone with random weights, always the same: to be frozen, with or without
    /// modules in it, a ViT of width 16 with two blocks; to be tuned, a reduced ResNet-18 with two filters, for the sake of its batch norm.
    ///
    /// # Errors
    /// If it cannot be built.
    pub fn frozen(&self) -> Result<Frozen> {
        let key = Key::from_seed(1).child("backbone");
        let backbone = match self.tuning {
            Tuning::Frozen | Tuning::Pet => toy_vit(self.shape.height, key, &self.device)?,
            Tuning::Full => {
                let side = self.shape.height;
                Backbone::resnet18(2, side, Normalise::HALF, key, &self.device)?
            }
        };
        Ok(Frozen::new(backbone, &self.device))
    }
}

/// A small Vision Transformer for square images of `side` pixels: patches of 4, width 16, two blocks of two heads.
///
/// # Errors
/// If `side` is no multiple of 4.
pub fn toy_vit(side: usize, key: Key, device: &Device) -> Result<Backbone> {
    let sizes = VitConfig {
        image: side,
        patch: 4,
        dim: 16,
        depth: 2,
        heads: 2,
        hidden: 32,
    };
    Backbone::vit(sizes, Normalise::HALF, key, device)
}

/// What a learner is told of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Tasks with borders, whose samples may be seen for several epochs.
    Tasks,
    /// One pass, with borders.
    SinglePass,
    /// One pass without borders.
    Borderless,
}

impl Flow {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tasks, Self::SinglePass, Self::Borderless];

    /// The name for reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tasks => "tasks with borders",
            Self::SinglePass => "a single pass with borders",
            Self::Borderless => "a single pass without borders",
        }
    }
}

/// Images of some classes, in mixed order. A class has a colour of its own (27 of them), each pixel of
/// which is off by at most 24 of 255.
///
/// # Errors
/// If the shape has no pixels.
pub fn toy_images(
    shape: ImageShape,
    classes: &[(u32, usize)],
    key: Key,
) -> Result<(Images, Vec<ClassId>)> {
    let of_class = |(class, count): &(u32, usize)| vec![*class; *count];
    let classes: Vec<u32> = classes.iter().flat_map(of_class).collect();
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for (image, place) in (0..).zip(key.permutation(classes.len())) {
        let class = classes[place];
        let noise = key.child("noise").at(image).permutation(shape.bytes());
        pixels.extend(noise.into_iter().enumerate().map(|(byte, noise)| {
            let digit = class / 3_u32.pow((byte % shape.channels) as u32) % 3;
            (40 + 88 * digit as usize + noise % 49 - 24) as u8
        }));
        labels.push(ClassId(class));
    }
    Ok((Images::new(shape, pixels)?, labels))
}

/// A stream of toy images, and two test images of each of its classes.
pub struct Toy {
    flow: Flow,
    manifest: Manifest,
    train: (Images, Vec<ClassId>),
    test: (Images, Vec<ClassId>),
}

impl Toy {
    /// A stream of tasks, each with so many images of each of its classes, in mixed order.
    ///
    /// # Errors
    /// If the shape has no pixels.
    pub fn new(shape: ImageShape, flow: Flow, tasks: &[&[(u32, usize)]]) -> Result<Self> {
        let key = Key::from_seed(3).child("toy");
        let mut train = (Images::empty(shape), Vec::new());
        let mut order = SeenClasses::default();
        let mut manifest_tasks = Vec::new();
        for (number, task) in (0..).zip(tasks) {
            let (images, labels) = toy_images(shape, task, key.child("train").at(number))?;
            let first = train.1.len() as u32;
            train.0.extend(&images)?;
            train.1.extend(&labels);
            for (class, _) in *task {
                order.insert(ClassId(*class));
            }
            let mut classes: Vec<ClassId> = SeenClasses::from(labels).into();
            classes.sort_by_key(|class| order.index(*class));
            manifest_tasks.push(ManifestTask {
                classes,
                indices: (first..train.1.len() as u32).collect(),
            });
        }
        let two_each: Vec<_> = order.as_slice().iter().map(|class| (class.0, 2)).collect();
        let test = toy_images(shape, &two_each, key.child("test"))?;
        let largest = order.as_slice().iter().map(|class| class.0).max();
        let manifest = Manifest {
            scenario: "toy".to_owned(),
            num_samples: train.1.len(),
            num_classes: largest.map_or(0, |largest| largest as usize + 1),
            class_order: order.into(),
            online: flow != Flow::Tasks,
            borders: flow != Flow::Borderless,
            tasks: manifest_tasks,
            ..Manifest::default()
        };
        manifest.validate(&train.1)?;
        Ok(Self {
            flow,
            manifest,
            train,
            test,
        })
    }

    /// The stream with its samples and tests.
    pub fn material(&self) -> Material<'_> {
        Material {
            manifest: &self.manifest,
            train: Labelled {
                images: &self.train.0,
                labels: &self.train.1,
            },
            test: Labelled {
                images: &self.test.0,
                labels: &self.test.1,
            },
        }
    }

    /// The same images in the same order under other class numbers. No two classes may get the same.
    ///
    /// # Errors
    /// If two do.
    pub fn relabelled(&self, name: impl Fn(ClassId) -> ClassId) -> Result<Self> {
        let all = |classes: &[ClassId]| classes.iter().map(|class| name(*class)).collect();
        let mut manifest = self.manifest.clone();
        for task in &mut manifest.tasks {
            task.classes = all(&task.classes);
        }
        manifest.class_order = all(&manifest.class_order);
        let largest = manifest.class_order.iter().map(|class| class.0).max();
        manifest.num_classes = largest.map_or(0, |largest| largest as usize + 1);
        let train = (self.train.0.clone(), all(&self.train.1));
        let test = (self.test.0.clone(), all(&self.test.1));
        manifest.validate(&train.1)?;
        Ok(Self {
            flow: self.flow,
            manifest,
            train,
            test,
        })
    }

    /// What a learner is told of the stream.
    pub fn flow(&self) -> Flow {
        self.flow
    }

    /// The stream.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Images that were not learnt from, two of each class, in mixed order.
    pub fn probe(&self) -> &Images {
        &self.test.0
    }

    /// The test images of one task's classes, with their places in [`probe`](Self::probe).
    ///
    /// # Errors
    /// If there is no such task.
    pub fn probe_of(&self, task: TaskId) -> Result<(Vec<usize>, Images)> {
        let tasks = self.manifest.tasks.len();
        let found = self.manifest.task(task);
        let found = found.ok_or_else(|| Error::input("task", task, format!("below {tasks}")))?;
        let classes = &found.classes;
        let of_task = |index: &usize| classes.contains(&self.test.1[*index]);
        let chosen: Vec<usize> = (0..self.test.1.len()).filter(of_task).collect();
        let images = self.test.0.select(&chosen)?;
        Ok((chosen, images))
    }
}
