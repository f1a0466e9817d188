"""Bootstrap: resamples, exact sums, BCa limits. Knows nothing of score tables or gates.

    resamples of units                 OneWayResamples     oneway.py
    resamples of seeds and units       CrossedResamples    crossed.py
    the same, few distinct values      CategoryResamples   categories.py
    one grid, calibrated               crossed_bca         many.py
    many metrics at once               bca_many            many.py
    units alone, every resample        bca_ideal           ideal.py
    limits from any replicates         bca_interval        bca.py

The reported interval of a comparison is `crossed_bca`; the two-way t decides (stats/twoway.py).
`stats/naive.py` holds the same in plain loops.
"""

from stats.bootstrap.bca import BcaLimits, Ties, bca_interval, bca_limits
from stats.bootstrap.categories import CategoryResamples
from stats.bootstrap.crossed import CrossedResamples
from stats.bootstrap.ideal import IdealIntervals, bca_ideal
from stats.bootstrap.many import ManyIntervals, bca_many, crossed_bca
from stats.bootstrap.oneway import OneWayResamples
from stats.bootstrap.replicates import ManyReplicates, Replicates

__all__ = [
    "BcaLimits",
    "CategoryResamples",
    "CrossedResamples",
    "IdealIntervals",
    "ManyIntervals",
    "ManyReplicates",
    "OneWayResamples",
    "Replicates",
    "Ties",
    "bca_ideal",
    "bca_interval",
    "bca_limits",
    "bca_many",
    "crossed_bca",
]
