use everburn_core::{Checker, Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A kind of parameter-efficient tuning, with its settings.
///
/// ```
/// use everburn_nn::PetConfig;
/// let pet: PetConfig = serde_json::from_str(r#"{"kind": "lora", "rank": 8}"#).unwrap();
/// assert!(matches!(pet, PetConfig::Lora(lora) if lora.rank == 8));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum PetConfig {
    /// AdaptFormer's bottleneck beside the MLP (Chen et al., NeurIPS 2022), as APER, RanPAC, EASE and MOS
    /// use it.
    Adaptformer(AdaptFormerConfig),
    /// LAE's bottleneck beside the attention (Gao et al., ICCV 2023).
    Adapter(AdapterConfig),
    /// Low-rank changes of weights (Hu et al., ICLR 2022); by default LAE's, of keys and values.
    Lora(LoraConfig),
    /// Keys and values beside those of the tokens (Li & Liang, ACL 2021), as LAE calibrates them.
    Prefix(PrefixConfig),
    /// Scale and shift of every operation's output (Lian et al., NeurIPS 2022).
    Ssf(SsfConfig),
    /// Visual prompts (Jia et al., ECCV 2022).
    Vpt(VptConfig),
}

/// The blocks in which something acts, counted from 0: `"all"`, a number (the first so many), or a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "BlocksText", into = "BlocksText")]
#[schemars(with = "BlocksText")]
pub enum Blocks {
    /// All of them.
    All,
    /// The first so many.
    First(usize),
    /// These.
    Only(Vec<usize>),
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected \"all\", a number of blocks or a list of their numbers"
)]
enum BlocksText {
    /// "all": all of them.
    Word(String),
    /// The first so many.
    First(usize),
    /// These, counted from 0.
    Only(Vec<usize>),
}

impl TryFrom<BlocksText> for Blocks {
    type Error = String;

    fn try_from(text: BlocksText) -> Result<Self, String> {
        match text {
            BlocksText::Word(word) if word == "all" => Ok(Self::All),
            BlocksText::Word(word) => Err(format!(
                "found the blocks \"{word}\", expected \"all\", a number or a list of numbers"
            )),
            BlocksText::First(count) => Ok(Self::First(count)),
            BlocksText::Only(list) => Ok(Self::Only(list)),
        }
    }
}

impl From<Blocks> for BlocksText {
    fn from(blocks: Blocks) -> Self {
        match blocks {
            Blocks::All => Self::Word("all".to_owned()),
            Blocks::First(count) => Self::First(count),
            Blocks::Only(list) => Self::Only(list),
        }
    }
}

impl Blocks {
    /// Their numbers in a backbone of `depth` blocks, ascending.
    ///
    /// # Errors
    /// If there are none, or the backbone has fewer.
    pub fn numbers(&self, depth: usize) -> Result<Vec<usize>> {
        self.validate()?;
        let last = match self {
            Self::All => depth.saturating_sub(1),
            Self::First(count) => count - 1,
            Self::Only(list) => list.iter().max().copied().unwrap_or_default(),
        };
        if last >= depth {
            let expected = format!("blocks of the backbone, which has {depth}");
            let found = format!("block {last}, counted from 0");
            return Err(Error::config("pet.blocks", found, expected));
        }
        Ok(match self {
            Self::All | Self::First(_) => (0..=last).collect(),
            Self::Only(list) => {
                let mut list = list.clone();
                list.sort_unstable();
                list.dedup();
                list
            }
        })
    }

    /// Checks that there are any.
    fn validate(&self) -> Result<()> {
        match self {
            Self::First(0) => Err(Error::config("pet.blocks", 0, "at least one")),
            Self::Only(list) if list.is_empty() => {
                Err(Error::config("pet.blocks", "none", "at least one"))
            }
            _ => Ok(()),
        }
    }

    fn first(&self) -> usize {
        match self {
            Self::All | Self::First(_) => 0,
            Self::Only(list) => list.iter().min().copied().unwrap_or(0),
        }
    }
}

/// A factor s: `"learnable"`, which begins at 1, or a number that stays.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "ScaleText", into = "ScaleText")]
#[schemars(with = "ScaleText")]
pub enum Scale {
    /// Trained; begins at 1.
    Learnable,
    /// Always this.
    Constant(f64),
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected \"learnable\" or a number")]
enum ScaleText {
    /// "learnable": trained; begins at 1.
    Word(String),
    /// Always this.
    Constant(f64),
}

impl TryFrom<ScaleText> for Scale {
    type Error = String;

    fn try_from(text: ScaleText) -> Result<Self, String> {
        match text {
            ScaleText::Word(word) if word == "learnable" => Ok(Self::Learnable),
            ScaleText::Word(word) => Err(format!(
                "found the scale \"{word}\", expected \"learnable\" or a number"
            )),
            ScaleText::Constant(value) => Ok(Self::Constant(value)),
        }
    }
}

impl From<Scale> for ScaleText {
    fn from(scale: Scale) -> Self {
        match scale {
            Scale::Learnable => Self::Word("learnable".to_owned()),
            Scale::Constant(value) => Self::Constant(value),
        }
    }
}

impl Scale {
    fn validate(self) -> Result<()> {
        match self {
            Self::Constant(value) if !value.is_finite() || value == 0.0 => Err(Error::config(
                "pet.scale",
                value,
                "\"learnable\" or a finite number other than 0",
            )),
            _ => Ok(()),
        }
    }
}

/// The width of a bottleneck: a whole number, or a fraction of the backbone's width.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected a whole number, or a fraction such as 0.25"
)]
pub enum Width {
    /// So many units.
    Units(usize),
    /// This part of D, rounded down.
    Fraction(f64),
}

impl Width {
    /// Units for a backbone of width D = `dim`.
    ///
    /// # Errors
    /// If there are none.
    pub fn units(self, dim: usize) -> Result<usize> {
        self.validate()?;
        let units = match self {
            Self::Units(units) => units,
            Self::Fraction(fraction) => (dim as f64 * fraction) as usize,
        };
        match units {
            0 => {
                let found = format!("{self:?} of {dim}");
                Err(Error::config("pet.bottleneck", found, "at least one unit"))
            }
            _ => Ok(units),
        }
    }

    /// Checks what needs no backbone.
    fn validate(self) -> Result<()> {
        let check = Checker::new("pet");
        match self {
            Self::Units(units) => size(&check, "bottleneck", units),
            Self::Fraction(fraction) => {
                let range = f64::MIN_POSITIVE..=4.0;
                check.within(
                    "bottleneck",
                    fraction,
                    range,
                    "a fraction above 0, at most 4",
                )
            }
        }
    }
}

/// More of anything than this is a mistake, and would not fit into memory.
const LARGEST: usize = 1 << 16;

fn size(check: &Checker, field: &str, value: usize) -> Result<()> {
    check.within(field, value, 1..=LARGEST, "a whole number from 1 to 65536")
}

/// AdaptFormer's adapter: a = s·up(drop(ReLU(down(u)))).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptFormerConfig {
    /// The blocks that have one. Published (APER, RanPAC, EASE, MOS): all.
    pub blocks: Blocks,
    /// Width r of the bottleneck. Published: 64 (APER, RanPAC, EASE), 16 (MOS).
    pub bottleneck: Width,
    /// s. Published: 0.1, constant; "learnable" is the code's `learnable_scalar`.
    pub scale: Scale,
    /// Probability that a unit of the bottleneck is dropped in training. Published: 0.1.
    pub dropout: f64,
    /// Where it stands. Published: parallel.
    pub place: MlpPlace,
    /// A layer norm of its own. Published: none.
    pub layer_norm: AdapterNorm,
}

impl Default for AdaptFormerConfig {
    /// As APER publishes it.
    fn default() -> Self {
        Self {
            blocks: Blocks::All,
            bottleneck: Width::Units(64),
            scale: Scale::Constant(0.1),
            dropout: 0.1,
            place: MlpPlace::Parallel,
            layer_norm: AdapterNorm::None,
        }
    }
}

/// Where AdaptFormer's adapter stands to the MLP, with u = x + Attn(LN₁ x) and m = MLP(LN₂ u).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MlpPlace {
    /// It reads u: u + m + a(u).
    Parallel,
    /// It reads m: u + m + a(m).
    Sequential,
}

/// Whether AdaptFormer's adapter has a layer norm (the code's `adapter_layernorm_option`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AdapterNorm {
    /// It has none.
    None,
    /// On what it reads.
    In,
    /// On what it gives, after the scale.
    Out,
}

/// LAE's adapter: A(h) = s·(W₂·GELU(W₁·h + b₁) + b₂) beside the attention, with h = LN₁ x.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdapterConfig {
    /// The blocks that have one. Published: the first 5 of a ViT-B's 12.
    pub blocks: Blocks,
    /// Width of the bottleneck, the code's `down_sample`. Published: 5.
    pub bottleneck: Width,
    /// s. Published: learnable.
    pub scale: Scale,
    /// Where it stands. Published: parallel.
    pub place: AttentionPlace,
}

impl Default for AdapterConfig {
    /// As LAE publishes it ("Adapter5").
    fn default() -> Self {
        Self {
            blocks: Blocks::First(5),
            bottleneck: Width::Units(5),
            scale: Scale::Learnable,
            place: AttentionPlace::Parallel,
        }
    }
}

/// Where LAE's adapter stands to the attention (the code's `mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AttentionPlace {
    /// Attn(h) + A(h).
    Parallel,
    /// Attn(A(h) + h).
    Before,
    /// A(Attn(h)) + h.
    After,
}

/// Low-rank changes ΔW = s·B·A, with A `[r, in]` and B `[out, r]`, which begins as zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// The blocks that have them. Published: the first 5 of a ViT-B's 12 (LAE), all (SLCA++).
    pub blocks: Blocks,
    /// r. Published: 5 (LAE), 4 (SLCA++).
    pub rank: usize,
    /// s, one for each weight. Published: learnable (LAE), 0.8 (SLCA++).
    pub scale: Scale,
    /// The weights that are changed. Published: keys and values (LAE), qkv (SLCA++).
    pub targets: Vec<LoraTarget>,
    /// How A begins. Published: uniform (LAE), singular (SLCA++).
    pub init: LoraInit,
}

impl Default for LoraConfig {
    /// As LAE publishes it ("LoRA5").
    fn default() -> Self {
        Self {
            blocks: Blocks::First(5),
            rank: 5,
            scale: Scale::Learnable,
            targets: vec![LoraTarget::Keys, LoraTarget::Values],
            init: LoraInit::Uniform,
        }
    }
}

/// How A of a low-rank change begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LoraInit {
    /// Uniform in ±1/√in.
    #[default]
    Uniform,
    /// The first r right singular vectors of the weight `[out, in]`: the inputs on which it acts most.
    Singular,
}

/// A weight that a low-rank change is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LoraTarget {
    /// The queries' third of the fused projection.
    Queries,
    /// The keys' third.
    Keys,
    /// The values' third.
    Values,
    /// The whole fused projection, with one B.
    Qkv,
    /// The attention's output projection.
    Proj,
    /// The MLP's first layer.
    Fc1,
    /// The MLP's second layer.
    Fc2,
}

/// Prefix tuning: L keys and values that every query also sees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PrefixConfig {
    /// The blocks that have one. Published: the first 5 of a ViT-B's 12.
    pub blocks: Blocks,
    /// L. Published: 10 and 20.
    pub length: usize,
    /// s of the keys and of the values, one each. Published: learnable.
    pub scale: Scale,
    /// Whether the weights of the prefix are divided by their sum λ, so that it acts as fast as the other
    /// kinds. Published: true.
    pub compensate: bool,
}

impl Default for PrefixConfig {
    /// As LAE publishes it ("Prefix10").
    fn default() -> Self {
        Self {
            blocks: Blocks::First(5),
            length: 10,
            scale: Scale::Learnable,
            compensate: true,
        }
    }
}

/// SSF: y = γ⊙z + β after the patch projection, norms, qkv, proj, fc1, fc2 and the final norm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SsfConfig {
    /// Standard deviation with which γ is drawn around 1 and β around 0. Published: 0.02.
    pub deviation: f64,
}

impl Default for SsfConfig {
    /// As published.
    fn default() -> Self {
        Self { deviation: 0.02 }
    }
}

/// Prompts: tokens that are appended to the image's and left out of the feature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct VptConfig {
    /// Where they come in. Published: both (APER, RanPAC).
    pub depth: VptDepth,
    /// p. Published: 5 (APER, RanPAC).
    pub tokens: usize,
    /// How they begin. Published: zeros (APER, RanPAC), uniform (VPT).
    pub init: VptInit,
}

impl Default for VptConfig {
    /// As APER publishes it ("VPT-Deep").
    fn default() -> Self {
        Self {
            depth: VptDepth::Deep,
            tokens: 5,
            init: VptInit::Zeros,
        }
    }
}

/// Where prompts come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VptDepth {
    /// Before block 0, carried through all blocks.
    Shallow,
    /// Before each block anew, and left out after it.
    Deep,
}

/// How prompts begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VptInit {
    /// At 0 (APER, RanPAC). Not a no-op: the layer norm makes its shift of them.
    Zeros,
    /// Uniform in ±√(6 / (3·patch² + D)), as VPT draws them.
    Uniform,
}

impl PetConfig {
    /// The name in tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Adaptformer(_) => "adaptformer",
            Self::Adapter(_) => "adapter",
            Self::Lora(_) => "lora",
            Self::Prefix(_) => "prefix",
            Self::Ssf(_) => "ssf",
            Self::Vpt(_) => "vpt",
        }
    }

    /// Checks what can be checked without a backbone.
    ///
    /// # Errors
    /// Names the setting that is wrong.
    pub fn validate(&self) -> Result<()> {
        let check = Checker::new("pet");
        match self {
            Self::Adaptformer(config) => {
                config.blocks.validate()?;
                config.scale.validate()?;
                check.within("dropout", config.dropout, 0.0..1.0, "from 0 to below 1")?;
                config.bottleneck.validate()
            }
            Self::Adapter(config) => {
                config.blocks.validate()?;
                config.scale.validate()?;
                config.bottleneck.validate()
            }
            Self::Lora(config) => {
                config.blocks.validate()?;
                config.scale.validate()?;
                size(&check, "rank", config.rank)?;
                check_targets(&config.targets)
            }
            Self::Prefix(config) => {
                config.blocks.validate()?;
                config.scale.validate()?;
                size(&check, "length", config.length)
            }
            Self::Ssf(config) => check.within(
                "deviation",
                config.deviation,
                0.0..f64::INFINITY,
                "a finite number of at least 0",
            ),
            Self::Vpt(config) => size(&check, "tokens", config.tokens),
        }
    }

    /// The block before which everything is as in the pre-trained backbone; none where already the patches
    /// are changed.
    pub fn first_block(&self) -> Option<usize> {
        match self {
            Self::Adaptformer(config) => Some(config.blocks.first()),
            Self::Adapter(config) => Some(config.blocks.first()),
            Self::Lora(config) => Some(config.blocks.first()),
            Self::Prefix(config) => Some(config.blocks.first()),
            Self::Vpt(_) => Some(0),
            Self::Ssf(_) => None,
        }
    }
}

/// LAE's adapter, as published.
impl Default for PetConfig {
    fn default() -> Self {
        Self::Adapter(AdapterConfig::default())
    }
}

fn check_targets(targets: &[LoraTarget]) -> Result<()> {
    use LoraTarget::{Keys, Qkv, Queries, Values};
    let has = |target: &LoraTarget| targets.contains(target);
    let twice = (1..targets.len()).any(|i| targets[..i].contains(&targets[i]));
    let parts = [Queries, Keys, Values].iter().any(has);
    if targets.is_empty() || twice || (has(&Qkv) && parts) {
        return Err(Error::config(
            "pet.targets",
            format!("{targets:?}"),
            "different weights, and `qkv` not beside its parts",
        ));
    }
    Ok(())
}
