"""Whether a cluster file will do what it says, found out offline: no cloud is asked.

`examine_file` reads a file of `ray up` (AWS, GCP) or a RayCluster of KubeRay. What Ray's own
schema and a cloud's own list of fields know is checked against them; the rest are our rules:
token authentication, nothing open to the world, images that exist, commands that are stated.
"""

from fleet.cluster_file.examine import examine_file
from fleet.cluster_file.finding import ClusterFinding

__all__ = ["ClusterFinding", "examine_file"]
