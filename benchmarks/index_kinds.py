"""What the index kinds of the micro-index cost and find, by number of texts.

Records of the generated world, hashed to 256 coordinates; 300 queries of three words, one at a
time, 10 hits; recall against exact search. One thread, CPU seconds. The rule in
`bem/retrieval/kinds.py` stands on this. Run: `python benchmarks/index_kinds.py` (half a minute).
"""

from __future__ import annotations

import sys
import time

import faiss
import numpy as np

from bem.retrieval import HashedEncoder
from bem.retrieval.kinds import KINDS, build, choose_kind, search
from missions.data.records import sample_record
from missions.data.templates import render_entity

SIZES = (1_000, 5_000, 10_000, 20_000, 60_000)
QUERIES, HITS = 300, 10


def main() -> None:
    """One line a size and kind."""
    faiss.omp_set_num_threads(1)
    rng = np.random.default_rng(0)
    encoder = HashedEncoder(256)
    records = (sample_record(rng, "train", num_fields=(3, 5)) for _ in range(max(SIZES)))
    texts = [render_entity(record) for record in records]
    x_ND = encoder.encode(texts)
    sys.stdout.write("| texts | kind | build, CPU s | query, CPU ms | recall at 10 |\n")
    sys.stdout.write("|---|---|---|---|---|\n")
    for size in SIZES:
        asked = rng.integers(size, size=QUERIES)
        queries_QD = encoder.encode([" ".join(texts[int(i)].split()[:3]) for i in asked])
        exact: list[set[int]] = []
        for kind in KINDS:
            started = time.process_time()
            index = build(kind, x_ND[:size])
            built = time.process_time() - started
            started = time.process_time()
            found = [search(index, queries_QD[i : i + 1], HITS)[1][0] for i in range(QUERIES)]
            taken = (time.process_time() - started) / QUERIES
            sets = [{int(i) for i in ids} for ids in found]
            exact = sets if kind == "flat" else exact
            recall = np.mean([len(a & b) / HITS for a, b in zip(sets, exact, strict=True)])
            mark = " (chosen)" if kind == choose_kind(size) else ""
            sys.stdout.write(
                f"| {size:,d} | {kind}{mark} | {built:.2f} | {1e3 * taken:.3f} | {recall:.3f} |\n"
            )


if __name__ == "__main__":
    main()
