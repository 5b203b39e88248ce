use everburn_backend::{Device, DeviceChoice, DeviceKind, devices};
use everburn_core::{Error, Result};

/// The devices on which tests run: the CPU, ndarray and CUDA where they are built in and present, and
/// the first wgpu adapter. `EVERBURN_TEST_DEVICES` names others, separated by commas; those must open.
///
/// # Errors
/// If a named device is unknown or does not open.
pub fn test_devices() -> Result<Vec<(DeviceChoice, Device)>> {
    let choices: Vec<DeviceChoice> = match std::env::var("EVERBURN_TEST_DEVICES") {
        Ok(names) => names.split(',').map(str::parse).collect::<Result<_>>()?,
        Err(std::env::VarError::NotUnicode(name)) => {
            let found = name.to_string_lossy().into_owned();
            return Err(Error::config(
                "EVERBURN_TEST_DEVICES",
                found,
                "names of devices",
            ));
        }
        Err(std::env::VarError::NotPresent) => {
            let mut kinds: Vec<DeviceKind> = devices().iter().map(|d| d.choice.kind).collect();
            kinds.dedup();
            let first = |kind| DeviceChoice { kind, index: None };
            kinds.into_iter().map(first).collect()
        }
    };
    choices
        .into_iter()
        .map(|choice| Ok((choice, choice.open()?)))
        .collect()
}
