#!/usr/bin/env python3
"""Writes digits.bin from scikit-learn's digits.csv.gz.

    pip download --no-deps scikit-learn -d /tmp/wheel
    unzip /tmp/wheel/scikit_learn-*.whl 'sklearn/datasets/data/digits.csv.gz' -d /tmp/wheel
    python3 make_digits.py /tmp/wheel/sklearn/datasets/data/digits.csv.gz digits.bin

A line of the input is an image: 64 values from 0 to 16, row by row, and the digit. The output is one
gzip stream (without a time stamp, so that it is reproducible) of

    8 bytes   "EVBDIGIT"
    u32 LE    number of images, u32 LE rows, u32 LE columns
    n bytes   the digits, in the order of the input
    n*r*c     the values as they are, in the same order
"""

import gzip
import io
import struct
import sys

SIDE = 8


def read(path):
    labels, values = bytearray(), bytearray()
    with gzip.open(path, "rt", encoding="ascii") as lines:
        for number, line in enumerate(lines, 1):
            row = [int(float(cell)) for cell in line.split(",")]
            if len(row) != SIDE * SIDE + 1:
                sys.exit(f"{path}, line {number}: {len(row)} cells, expected {SIDE * SIDE + 1}")
            *pixels, label = row
            if not all(0 <= value <= 16 for value in pixels) or not 0 <= label <= 9:
                sys.exit(f"{path}, line {number}: a value or the digit is out of range")
            labels.append(label)
            values.extend(pixels)
    return labels, values


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    labels, values = read(sys.argv[1])
    header = b"EVBDIGIT" + struct.pack("<III", len(labels), SIDE, SIDE)
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as stream:
        stream.write(header + labels + values)
    with open(sys.argv[2], "wb") as out:
        out.write(packed.getvalue())


if __name__ == "__main__":
    main()
