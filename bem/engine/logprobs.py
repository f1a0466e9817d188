"""The model's log-probabilities of the tokens that were picked, where a request asks for them.

Legend: B rows, V vocabulary, N rows that ask.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from bem.engine.request import TokenInfo


def infos_of(
    logits_BV: Tensor, asked: Sequence[int | None], tokens: Sequence[int]
) -> Sequence[TokenInfo | None]:
    """What is told of each row's token; `asked`: with how many alternatives, None: nothing."""
    infos: list[TokenInfo | None] = [None] * len(tokens)
    asking = [i for i, count in enumerate(asked) if count is not None]
    if not asking:
        return infos
    logprobs_NV = logits_BV[asking].float().log_softmax(-1)
    for logprob_V, i in zip(logprobs_NV, asking, strict=True):
        best = logprob_V.topk(asked[i] or 0)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        infos[i] = TokenInfo(token=tokens[i], logprob=float(logprob_V[tokens[i]]), top=tuple(pairs))
    return infos
