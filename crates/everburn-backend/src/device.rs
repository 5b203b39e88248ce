use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use burn::tensor::Device;
use everburn_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// A kind of device that a build of everburn may know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// burn-flex on the processor. Always there, and the only one whose results repeat to the byte.
    Cpu,
    /// burn-wgpu: Vulkan, Metal or DX12, through WGSL.
    Wgpu,
    /// burn-ndarray on the processor, which burn has deprecated.
    Ndarray,
    /// burn-cuda on an NVIDIA GPU.
    Cuda,
}

impl DeviceKind {
    /// All kinds, known to this build or not.
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Wgpu, Self::Ndarray, Self::Cuda];

    /// The name that `--device` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Wgpu => "wgpu",
            Self::Ndarray => "ndarray",
            Self::Cuda => "cuda",
        }
    }

    /// The cargo feature that compiles it in, if this build lacks it.
    pub fn missing_feature(self) -> Option<&'static str> {
        let built = match self {
            Self::Cpu => true,
            Self::Wgpu => cfg!(feature = "wgpu"),
            Self::Ndarray => cfg!(feature = "ndarray"),
            Self::Cuda => cfg!(feature = "cuda"),
        };
        (!built).then_some(self.name())
    }
}

/// A device by name: `cpu`, `wgpu`, `wgpu:1`, `ndarray`, `cuda:0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceChoice {
    /// Its kind.
    pub kind: DeviceKind,
    /// Which one of several, in the order of [`devices`]; `None` for the one that the system prefers.
    pub index: Option<usize>,
}

impl DeviceChoice {
    /// The processor.
    pub const CPU: Self = Self {
        kind: DeviceKind::Cpu,
        index: None,
    };
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        self.index.map_or(Ok(()), |index| write!(f, ":{index}"))
    }
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, index) = match text.split_once(':') {
            Some((name, index)) => (name, Some(index)),
            None => (text, None),
        };
        let kind = DeviceKind::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| Error::unknown("device", name, DeviceKind::ALL.map(DeviceKind::name)))?;
        let numbered = matches!(kind, DeviceKind::Wgpu | DeviceKind::Cuda);
        let index = match index {
            None => None,
            Some(index) if numbered => Some(index.parse().map_err(|_| {
                Error::config("device", text, format!("{name} or {name}:0, {name}:1, …"))
            })?),
            Some(_) => {
                return Err(Error::config(
                    "device",
                    text,
                    format!("{name}, without a number"),
                ));
            }
        };
        Ok(Self { kind, index })
    }
}

impl DeviceChoice {
    /// Opens the device, or finds it among those opened before.
    ///
    /// # Errors
    /// If this build lacks the kind, or the machine lacks the device.
    pub fn open(self) -> Result<Device> {
        // A wgpu runtime can be initialised once; the same choice must give the same device.
        static OPEN: Mutex<BTreeMap<DeviceChoice, Device>> = Mutex::new(BTreeMap::new());

        if let Some(feature) = self.kind.missing_feature() {
            return Err(Error::unsupported(
                format!("device `{self}`"),
                format!("this build lacks it; build with `--features {feature}`"),
            ));
        }
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = open.get(&self) {
            return Ok(device.clone());
        }
        let device = match self.kind {
            DeviceKind::Cpu => Device::flex(),
            DeviceKind::Wgpu => open_wgpu(self)?,
            DeviceKind::Ndarray => open_ndarray(self)?,
            DeviceKind::Cuda => open_cuda(self)?,
        };
        open.insert(self, device.clone());
        Ok(device)
    }
}

fn missing(choice: DeviceChoice, found: usize) -> Error {
    Error::unsupported(
        format!("device `{choice}`"),
        format!("this machine has {found} of the kind; see `cargo xtask devices`"),
    )
}

#[cfg(feature = "wgpu")]
fn open_wgpu(choice: DeviceChoice) -> Result<Device> {
    let adapters = Device::enumerate(burn::tensor::DeviceType::Wgpu).into_vec();
    match choice.index {
        Some(index) => {
            (adapters.get(index).cloned()).ok_or_else(|| missing(choice, adapters.len()))
        }
        None if adapters.is_empty() => Err(Error::unsupported(
            "device `wgpu`",
            "no Vulkan, Metal or DX12 adapter on this machine (on Linux: install a Vulkan driver, \
             or mesa-vulkan-drivers 25 or later for a software one); `--device cpu` always works",
        )),
        None => Device::wgpu_options()
            .init()
            .map_err(|error| Error::unsupported("device `wgpu`", error.to_string())),
    }
}

#[cfg(not(feature = "wgpu"))]
fn open_wgpu(choice: DeviceChoice) -> Result<Device> {
    Err(missing(choice, 0))
}

#[cfg(feature = "ndarray")]
fn open_ndarray(_choice: DeviceChoice) -> Result<Device> {
    // Deprecated by burn, kept because users ask for it.
    #[allow(deprecated)]
    Ok(Device::ndarray())
}

#[cfg(not(feature = "ndarray"))]
fn open_ndarray(choice: DeviceChoice) -> Result<Device> {
    Err(missing(choice, 0))
}

#[cfg(feature = "cuda")]
fn open_cuda(choice: DeviceChoice) -> Result<Device> {
    let cards = cuda_cards();
    let index = choice.index.unwrap_or(0);
    (cards.get(index).cloned()).ok_or_else(|| missing(choice, cards.len()))
}

/// Without an NVIDIA driver, burn's enumeration panics where it loads the driver's library; that
/// means no card.
#[cfg(feature = "cuda")]
fn cuda_cards() -> Vec<Device> {
    std::panic::catch_unwind(|| Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec())
        .unwrap_or_default()
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(choice: DeviceChoice) -> Result<Device> {
    Err(missing(choice, 0))
}

/// A device of this machine.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// What to ask for.
    pub choice: DeviceChoice,
    /// What the driver calls it.
    pub name: String,
}

/// The devices that this build can use on this machine.
pub fn devices() -> Vec<DeviceInfo> {
    let mut found = vec![DeviceInfo {
        choice: DeviceChoice::CPU,
        name: format!("burn-flex, {} threads", threads()),
    }];
    #[cfg(feature = "wgpu")]
    {
        let adapters = Device::enumerate(burn::tensor::DeviceType::Wgpu).into_vec();
        found.extend(named(DeviceKind::Wgpu, adapters));
    }
    if DeviceKind::Ndarray.missing_feature().is_none() {
        found.push(DeviceInfo {
            choice: DeviceChoice {
                kind: DeviceKind::Ndarray,
                index: None,
            },
            name: "burn-ndarray (deprecated by burn)".to_owned(),
        });
    }
    #[cfg(feature = "cuda")]
    found.extend(named(DeviceKind::Cuda, cuda_cards()));
    found
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Whether a device computes beside the processor, which then waits for it only where it reads a result.
pub fn is_asynchronous(device: &Device) -> bool {
    let device = device.clone().without_autodiff();
    #[cfg(feature = "ndarray")]
    #[allow(deprecated)]
    if device == Device::ndarray() {
        return false;
    }
    device != Device::flex()
}

/// Makes the calling thread one of those that compute on the CPU, for the rest of the process; a program
/// calls it once, first thing in `main`, on the thread that will drive its learners.
///
/// Otherwise that thread waits while as many others as there are cores do its work, and a short
/// operation costs a waking up of each. Results are the same. Does nothing where the pool of threads
/// (rayon's global one) is already there.
pub fn use_this_thread() {
    // Its only error is that somebody has built the pool before.
    let _ = rayon::ThreadPoolBuilder::new()
        .use_current_thread()
        .build_global();
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn named(kind: DeviceKind, devices: Vec<Device>) -> impl Iterator<Item = DeviceInfo> {
    let describe = move |(index, device): (usize, Device)| DeviceInfo {
        choice: DeviceChoice {
            kind,
            index: Some(index),
        },
        name: (device.identity()).map_or_else(|| format!("{device:?}"), |identity| identity.name),
    };
    devices.into_iter().enumerate().map(describe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for text in ["cpu", "wgpu", "wgpu:2", "cuda:0", "ndarray"] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn wrong_names_are_explained() {
        let message = |text: &str| text.parse::<DeviceChoice>().unwrap_err().to_string();
        assert!(message("wgpuu").contains("did you mean `wgpu`"));
        assert!(message("cpu:1").contains("without a number"));
        assert!(message("wgpu:x").contains("wgpu:0"));
    }

    #[test]
    fn the_same_choice_opens_the_same_device() {
        let open = || DeviceChoice::CPU.open().unwrap();
        assert_eq!(open(), open());
    }
}
