//! What may stand on the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Continual learning on burn: run methods on streams, look at data, streams and devices.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    version,
    arg_required_else_help = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Run methods × streams × seeds and print a table. Without arguments: digits, in two minutes.
    Bench(Box<BenchOptions>),
    /// Make runs for another process, as standard input says.
    #[command(hide = true)]
    Worker,
    /// List the devices of this machine that this build can use.
    Devices,
    /// Look at data sets.
    #[command(subcommand)]
    Data(DataCommand),
    /// Look at streams.
    #[command(subcommand)]
    Stream(StreamCommand),
    /// Look at methods.
    #[command(subcommand)]
    Method(MethodCommand),
    /// Write a crate for a method of your own: it compiles, runs in `bench` and passes the rules.
    NewMethod(NewMethodOptions),
    /// Look at finished runs, check and compare them.
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Look at the features of frozen backbones that are kept on the disk, or delete them.
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Make a page of results, in Markdown, from ledgers.
    Report(ReportOptions),
}

/// Options of `new-method`.
#[derive(Args)]
pub struct NewMethodOptions {
    /// The method's name, such as er-ace.
    pub name: String,
    /// The checkout to write into; this one unless said otherwise.
    #[arg(long)]
    pub into: Option<PathBuf>,
}

/// Options of `bench`. What a suite file and the options both say, the options decide.
#[derive(Args, Default)]
pub struct BenchOptions {
    /// A suite in TOML, such as those in `suites/`.
    #[arg(long)]
    pub suite: Option<PathBuf>,
    /// The suite's name: the folder below `--runs-dir`.
    #[arg(long)]
    pub name: Option<String>,
    /// digits, cifar10, cifar100, mnist, fashion-mnist, folder:PATH; see `data list`.
    #[arg(long)]
    pub dataset: Option<String>,
    /// The folder that holds the data set's own folder.
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// MiB of images that may stay in memory; a training or test set for which that is too little
    /// lies in a temporary file. Changes no result.
    #[arg(long, value_name = "MIB")]
    pub memory_budget: Option<u64>,
    /// The folder of that file, if it is not to be the system's for temporary files.
    #[arg(long)]
    pub spool_dir: Option<PathBuf>,
    /// How images are brought to the backbone's size: native, rgb, resize-32, resize-224, …
    #[arg(long)]
    pub preprocess: Option<String>,
    /// embedded, resnet18, resnet18:FILTERS, or a timm ViT's weights (.safetensors, .pth).
    #[arg(long)]
    pub backbone: Option<String>,
    /// frozen (a linear head on the backbone), pet (and small modules in it) or full.
    #[arg(long)]
    pub tuning: Option<String>,
    /// Methods, separated by commas; see `method list`. `er/small` is a variant of `er` with settings of its
    /// own: `--set er/small.buffer=100`.
    #[arg(long, value_delimiter = ',')]
    pub methods: Vec<String>,
    /// Streams, separated by commas; see `stream list`. Options of a stream contain commas
    /// themselves: give those with one `--streams` each.
    #[arg(long)]
    pub streams: Vec<String>,
    /// Seeds: `0..5` or `1,2,3`.
    #[arg(long)]
    pub seeds: Option<String>,
    /// cpu, wgpu, wgpu:1, ndarray, cuda:0; see `devices`.
    #[arg(long)]
    pub device: Option<String>,
    /// cpu (sized for two cores) or paper (as published).
    #[arg(long)]
    pub preset: Option<String>,
    /// Evaluations over a single-pass stream.
    #[arg(long, conflicts_with = "eval_period")]
    pub evaluations: Option<u64>,
    /// Instead: one evaluation for every so many samples, by Si-Blurry's official rule.
    #[arg(long)]
    pub eval_period: Option<u64>,
    /// Predict each batch of a single-pass stream before learning from it: prequential accuracy.
    #[arg(long)]
    pub prequential: bool,
    /// Let the joint reference learn once, after the last task, instead of anew after each: for ten tasks
    /// a fifth of the time. Of it only the last accuracy is known then.
    #[arg(long)]
    pub offline_once: bool,
    /// Use only so many training images of each class (the first in file order).
    #[arg(long)]
    pub train_per_class: Option<usize>,
    /// Use only so many test images of each class.
    #[arg(long)]
    pub test_per_class: Option<usize>,
    /// For choosing settings: hold this part of the training images out, and test on them instead
    /// of the test set.
    #[arg(long)]
    pub holdout: Option<f64>,
    /// Change a setting: `er.buffer=200`, `finetune.training.head_rate=0.01`, `*.epochs=3`.
    #[arg(long = "set", value_name = "METHOD.KEY=VALUE")]
    pub set: Vec<String>,
    /// Where results go.
    #[arg(long, default_value = "runs")]
    pub runs_dir: PathBuf,
    /// Seconds between two checkpoints of a run.
    #[arg(long, default_value_t = 20.0)]
    pub checkpoint_secs: f64,
    /// Do only one of so many parts of the runs, such as 2/3: for several machines.
    #[arg(long, value_name = "NUMBER/OF")]
    pub partition: Option<String>,
    /// Runs beside each other, each in a process of its own: a number, or auto for as many as cores
    /// and memory allow (one on a GPU). Changes no result.
    #[arg(long, value_name = "N")]
    pub jobs: Option<String>,
    /// Where features of frozen backbones are kept. Changes no result.
    #[command(flatten)]
    pub cache: CacheOptions,
    /// Write down where the time of each run goes, in its folder, and print a table. Changes no result.
    #[arg(long)]
    pub profile: bool,
    /// Print the plan and run nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// Where features of frozen backbones are kept.
#[derive(Args, Default)]
pub struct CacheOptions {
    /// Its folder.
    #[command(flatten)]
    pub folder: CacheFolder,
    /// Keep no features on the disk.
    #[arg(long)]
    pub no_cache: bool,
    /// GiB that features may take on the disk, of all backbones together; the oldest go.
    #[arg(long, value_name = "GIB", default_value_t = 8.0)]
    pub cache_limit: f64,
    /// MiB of features that a bench keeps in memory; it reads the others from the disk again.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    pub cache_memory: u64,
}

/// The folder of a feature cache.
#[derive(Args, Default)]
pub struct CacheFolder {
    /// The folder that holds features of frozen backbones; EVERBURN_CACHE_DIR or everburn/features in the
    /// user's cache folder unless said otherwise.
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
}

/// What to do with the features on the disk.
#[derive(Subcommand)]
pub enum CacheCommand {
    /// List what there is: rows, sizes, last use.
    Show(CacheFolder),
    /// Delete it all. A bench that uses it goes on.
    Clear(CacheFolder),
}

/// What to look at.
#[derive(Subcommand)]
pub enum DataCommand {
    /// All data sets.
    List,
    /// One data set: size, licence, files, citation.
    Info {
        /// Its name.
        name: String,
    },
    /// Check a data set's files against the official ones.
    Verify {
        /// Its name.
        name: String,
        /// The folder that holds the data set's own folder.
        #[arg(long)]
        data_dir: Option<PathBuf>,
    },
}

/// What to look at.
#[derive(Subcommand)]
pub enum StreamCommand {
    /// All streams.
    List,
    /// Draw a stream's classes over time.
    Show {
        /// The stream and its data.
        #[command(flatten)]
        of: StreamOptions,
        /// Write an SVG file instead of drawing in the terminal.
        #[arg(long)]
        svg: Option<PathBuf>,
    },
    /// Write a stream's manifest: JSON lines, zstd-compressed unless the name ends in .jsonl.
    Export {
        /// The stream and its data.
        #[command(flatten)]
        of: StreamOptions,
        /// The file.
        #[arg(long, short)]
        output: PathBuf,
    },
}

/// A stream and its data.
#[derive(Args)]
pub struct StreamOptions {
    /// split-5, split-b50-inc10, si-blurry, si-blurry:n=50,m=10,t=5, …
    pub stream: String,
    /// The data set.
    #[arg(long, default_value = "digits")]
    pub dataset: String,
    /// The folder that holds the data set's own folder.
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// The seed.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// What to look at.
#[derive(Subcommand)]
pub enum MethodCommand {
    /// All methods.
    List,
    /// A method's settings: the value of each, what it means, what was published and where.
    Show(MethodOptions),
}

/// A method and what its preset is asked for.
#[derive(Args)]
pub struct MethodOptions {
    /// Its name.
    pub name: String,
    /// cpu or paper.
    #[arg(long, default_value = "paper")]
    pub preset: String,
    /// frozen, pet or full; frozen unless said otherwise, or the only one that the method knows.
    #[arg(long)]
    pub tuning: Option<String>,
    /// For a backbone with random weights.
    #[arg(long)]
    pub from_scratch: bool,
    /// As TOML that can be pasted into a suite file.
    #[arg(long)]
    pub toml: bool,
}

/// What to do with finished runs. A PATH is a ledger's file or a folder with ledgers.
#[derive(Subcommand)]
pub enum LedgerCommand {
    /// Print the tables of all runs, those of other code or settings apart.
    Show {
        /// Ledgers, shown as one; all below `runs`, each on its own, if none is named.
        paths: Vec<PathBuf>,
        /// Only runs of the code whose hash begins so.
        #[arg(long, value_name = "PREFIX")]
        code: Option<String>,
        /// In Markdown.
        #[arg(long)]
        markdown: bool,
    },
    /// Check every record: that it is unchanged and follows from itself.
    Verify {
        /// Ledgers, checked together; all below `runs`, each on its own, if none is named.
        paths: Vec<PathBuf>,
    },
    /// Say in what two ledgers differ, and in what the runs differ that differ.
    Diff {
        /// A ledger.
        left: PathBuf,
        /// Another.
        right: PathBuf,
    },
}

/// Options of `report`.
#[derive(Args)]
pub struct ReportOptions {
    /// Ledgers: files or folders.
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
    /// The page's file; without it the page is printed.
    #[arg(long, short)]
    pub output: Option<PathBuf>,
    /// The page's title.
    #[arg(long, default_value = "Results")]
    pub title: String,
}
