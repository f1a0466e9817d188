"""Which FAISS index holds how many vectors, and how each is built: inner products, one thread.

The rule is measured (`benchmarks/index_kinds.py`: D = 256, hashed records, 300 queries one by one,
10 hits). Up to 10,000 texts exact search takes less than 0.4 CPU ms a query: nothing approximate is
worth its misses. At 60,000 it takes 2.5 ms; HNSW (arXiv 1603.09320) finds 99.7 % of the same hits
in 0.35 ms but takes 10 s to build, inverted lists (IVF) find 93 % in 0.46 ms and take 2.6 s: they
serve where building counts. Beyond 60,000 nothing was measured; the second limit is by the time to
build. It knows neither texts nor encoders.

Legend: N vectors, D coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import faiss
import numpy as np

from bem.errors import InvalidInputError
from bem.retrieval.interfaces import FloatArray

Kind = Literal["flat", "hnsw", "ivf"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FLAT_LIMIT = 10_000
"""Most texts that are searched exactly unless asked otherwise."""
HNSW_LIMIT = 100_000
"""Most texts for which a graph is built unless asked otherwise: some half a minute."""
_LINKS, _BUILD_WIDTH, _SEARCH_WIDTH = 32, 80, 128
_POINTS_A_LIST = 39
"""k-means of FAISS warns below this many vectors a list."""


def choose_kind(count: int) -> Kind:
    """The kind for `count` texts."""
    if count <= FLAT_LIMIT:
        return "flat"
    return "hnsw" if count <= HNSW_LIMIT else "ivf"


def check_kind(kind: str, count: int) -> Kind:
    """`kind`, or the rule's choice for "auto"; an error names the known ones."""
    if kind == "auto":
        return choose_kind(count)
    for known in KINDS:
        if kind == known:
            return known
    raise InvalidInputError(f"Unknown index kind '{kind}'. Known: auto, {', '.join(KINDS)}.")


def build(kind: Kind, x_ND: FloatArray) -> Any:
    """A FAISS index over unit vectors. The same vectors give the same index."""
    count, dim = x_ND.shape
    index: Any
    if kind == "flat":
        index = faiss.IndexFlatIP(dim)
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, _LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = _BUILD_WIDTH, _SEARCH_WIDTH
    else:
        lists = max(1, min(int(4 * np.sqrt(count)), count // _POINTS_A_LIST))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.niter, index.cp.seed = 10, 1234
        index.nprobe = max(1, lists // 8)
    with _one_thread():
        if kind == "ivf":
            index.train(x_ND)
        index.add(x_ND)
    return index


def search(index: Any, queries_QD: FloatArray, k: int) -> tuple[FloatArray, Any]:
    """Scores and ids, (Q, k) each. Where the lists of an IVF that were looked at hold fewer than
    `k` vectors, all its lists are."""
    scores_QK, ids_QK = index.search(queries_QD, k)
    short_Q = (ids_QK < 0).any(axis=1)
    if short_Q.any():
        ivf = faiss.try_extract_index_ivf(index)
        if ivf is None:
            raise InvalidInputError(f"The index found fewer than {k} texts; give a smaller k.")
        probed, ivf.nprobe = ivf.nprobe, ivf.nlist
        try:
            scores_QK[short_Q], ids_QK[short_Q] = index.search(queries_QD[short_Q], k)
        finally:
            ivf.nprobe = probed
    return scores_QK, ids_QK


def stored_vectors(index: Any, kind: Kind) -> FloatArray:
    """All vectors (N, D), in order of id."""
    if kind == "ivf":
        index.make_direct_map()
    vectors: FloatArray = index.reconstruct_n(0, index.ntotal)
    return vectors


@contextmanager
def _one_thread() -> Iterator[None]:
    """A graph that several threads build depends on their order."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
