"""What a search says about itself, as numbers that a router can read: side signals.

    best         the largest score
    margin       the largest score less the second; 0 with one hit
    entropy      of softmax(scores / 0.1), over log K; 0 with one hit
    coverage     ||P q||, P the projection on the span of the hits: 1 where they tell all of q
    consistency  the mean cosine between two different hits; 1 with one hit

`RoutingContext(side_BF=...)` takes them to an adapter with `side_size=len(FEATURES)`. It knows
neither adapters nor encoders.

Legend: Q queries, K hits a query, D coordinates, F features.
"""

from __future__ import annotations

import numpy as np

from bem.retrieval.interfaces import FloatArray

FEATURES = ("best", "margin", "entropy", "coverage", "consistency")
_TEMPERATURE = 0.1


def retrieval_features(queries_QD: FloatArray, hits_QKD: FloatArray) -> FloatArray:
    """(Q, F) from unit vectors of the queries and of their hits, in any order."""
    scores_QK = np.einsum("qkd,qd->qk", hits_QKD, queries_QD)
    ordered_QK = -np.sort(-scores_QK, axis=1)
    count = scores_QK.shape[1]
    best_Q = ordered_QK[:, 0]
    if count == 1:
        margin_Q, entropy_Q, consistency_Q = (
            np.zeros_like(best_Q),
            np.zeros_like(best_Q),
            1 + 0 * best_Q,
        )
    else:
        margin_Q = best_Q - ordered_QK[:, 1]
        p_QK = np.exp((ordered_QK - best_Q[:, None]) / _TEMPERATURE)
        p_QK /= p_QK.sum(axis=1, keepdims=True)
        entropy_Q = -(p_QK * np.log(np.maximum(p_QK, 1e-30))).sum(axis=1) / np.log(count)
        # ||sum of the hits||^2 counts every pair twice and each hit with itself once
        total_Q = np.square(hits_QKD.sum(axis=1)).sum(axis=1)
        itself_Q = np.square(hits_QKD).sum(axis=(1, 2))
        consistency_Q = (total_Q - itself_Q) / (count * (count - 1))
    features = (best_Q, margin_Q, entropy_Q, _coverage(queries_QD, hits_QKD), consistency_Q)
    return np.stack(features, axis=1).astype(np.float32)


def _coverage(queries_QD: FloatArray, hits_QKD: FloatArray) -> FloatArray:
    """||P q||; hits that say the same span one direction."""
    _, size_QK, axes_QKD = np.linalg.svd(hits_QKD.astype(np.float64), full_matrices=False)
    along_QK = np.einsum("qkd,qd->qk", axes_QKD, queries_QD)
    along_QK[size_QK < 1e-5 * size_QK[:, :1]] = 0.0
    length_Q: FloatArray = np.sqrt(np.square(along_QK).sum(axis=1))
    return length_Q
