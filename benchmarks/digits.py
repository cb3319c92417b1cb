"""Does the conditional generator make what it is asked for? The embedded digits, after the training of `make demo`.

    python benchmarks/digits.py runs/demo

A scikit-learn classifier (RBF support vectors) is fitted on all 1,797 real digits and names 100 samples of each class.
"""

import argparse

import numpy as np
from sklearn.datasets import load_digits
from sklearn.svm import SVC

import gansmith

EACH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    model = gansmith.load(parser.parse_args().run)
    real = load_digits()
    judge = SVC(C=10, gamma=0.001).fit(real.data, real.target)
    right = []
    for digit in range(10):
        pictures = model.decode(model.sample(EACH, y=str(digit), seed=digit))
        named = judge.predict(np.stack(pictures).reshape(EACH, -1) * (16 / 255))
        right.append((named == digit).mean())
    print("asked class named, by digit:", " ".join(f"{share:.2f}" for share in right))
    print(f"in all: {np.mean(right):.3f} of {10 * EACH} samples")


if __name__ == "__main__":
    main()
