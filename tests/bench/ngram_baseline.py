#!/usr/bin/env python3
"""Bits per byte of a byte n-gram model of order 5 with interpolated Witten-Bell smoothing: the figure a trained model
must beat.

    ngram_baseline.py TRAIN VALIDATION    trains on one file, tests on the other
    ngram_baseline.py --kjv               the King James Bible (Debian: bible-kjv), first 90 % of bytes train: 2.295

Order 5 means contexts of up to five bytes, a 6-gram as others count; contexts of four bytes give 2.305.
For a context h with n(h) occurrences followed by t(h) different bytes, and h' = h without its first byte:
    P(c | h) = (n(h c) + t(h) P(c | h')) / (n(h) + t(h)); below the empty context every byte has 1/256.
(Witten and Bell 1991; Chen and Goodman 1998, section 2.5.)
"""
import math
import subprocess
import sys
from collections import Counter

ORDER = 5  # bytes of context


def train(text):
    """Counts of every n-gram, and of every context how often it occurred and how many different bytes followed."""
    grams, occurrences, followers = Counter(), Counter(), Counter()
    for n in range(1, ORDER + 2):
        counts = Counter(text[i:i + n] for i in range(len(text) - n + 1))
        for gram, count in counts.items():
            occurrences[gram[:-1]] += count
            followers[gram[:-1]] += 1
        grams.update(counts)
    return grams, occurrences, followers


def bits_per_byte(model, text):
    grams, occurrences, followers = model
    bits = 0.0
    for i in range(len(text)):
        probability = 1 / 256
        for n in range(min(ORDER, i) + 1):  # from the empty context to the longest
            context = text[i - n:i]
            seen = occurrences.get(context)
            if seen is None:
                break  # longer contexts are unseen too
            distinct = followers[context]
            probability = (grams.get(text[i - n:i + 1], 0) + distinct * probability) / (seen + distinct)
        bits -= math.log2(probability)
    return bits / len(text)


def main():
    if sys.argv[1:] == ["--kjv"]:
        text = subprocess.run(["bible", "-f", "gen1:1-rev22:21"], stdout=subprocess.PIPE, check=True).stdout
        cut = len(text) * 9 // 10
        training, validation = text[:cut], text[cut:]
    elif len(sys.argv) == 3:
        training, validation = (open(path, "rb").read() for path in sys.argv[1:])
    else:
        sys.exit(__doc__)
    print(f"{bits_per_byte(train(training), validation):.3f}")


if __name__ == "__main__":
    main()
