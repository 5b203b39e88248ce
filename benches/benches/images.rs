//! Decoding and resizing, image by image and for a whole data set.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use everburn::core::ImageShape;
use everburn::data::{Filter, LoadOptions, Preprocess, Raster, Resizer, Size, load_digits};
use everburn_benches::noise;

// Synthetic: noise of five scales on top of each other, saved by Pillow with quality 90,
// and the same at 64×64.
const JPEG: &[u8] = include_bytes!("../data/noise-256.jpg");
const PNG: &[u8] = include_bytes!("../data/noise-64.png");

fn images(c: &mut Criterion) {
    let mut group = c.benchmark_group("images");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    group.throughput(Throughput::Elements(1));
    for (name, bytes) in [("jpeg/256", JPEG), ("png/64", PNG)] {
        group.bench_function(format!("decode/{name}"), |b| {
            b.iter(|| Raster::decode(black_box(bytes), name).unwrap());
        });
    }
    for (from, to, filter) in [
        (8, 32, Filter::Bilinear),
        (32, 224, Filter::Bilinear),
        (256, 224, Filter::Bilinear),
        (256, 224, Filter::Bicubic),
    ] {
        let shape = ImageShape::new(from, from, 3);
        let image = noise(shape, 1);
        let resizer = Resizer::new(shape, Size::square(to), filter).unwrap();
        let name = filter.name();
        group.bench_function(format!("resize/{name}/{from} to {to}"), |b| {
            b.iter(|| resizer.resize(black_box(image.pixels())).unwrap());
        });
    }
    // In parallel.
    let cifar = noise(ImageShape::new(32, 32, 3), 100);
    let preprocess: Preprocess = "resize-224".parse().unwrap();
    group.throughput(Throughput::Elements(100));
    group.bench_function("preprocess/resize-224/100", |b| {
        b.iter(|| preprocess.apply_all(black_box(&cifar).clone()).unwrap());
    });
    let preprocess: Preprocess = "resize-32".parse().unwrap();
    group.throughput(Throughput::Elements(1797));
    group.bench_function("load digits/resize-32/1797", |b| {
        b.iter(|| load_digits(&preprocess).unwrap());
    });
    // A batch at a time, out of memory and out of a temporary file.
    group.throughput(Throughput::Elements(64));
    for (place, memory_budget) in [("memory", None), ("disk", Some(0))] {
        let options = LoadOptions {
            preprocess,
            memory_budget,
            spool_dir: None,
        };
        let images = load_digits(options).unwrap().train.images;
        let chosen: Vec<usize> = (0..64).map(|i| i * 389 % images.len()).collect();
        group.bench_function(format!("select/{place}/64"), |b| {
            b.iter(|| images.select(black_box(&chosen)).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, images);
criterion_main!(benches);
