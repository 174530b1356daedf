"""Two Ray nodes on this machine index what the command line names, as a cluster would.

python two_nodes.py ./images --index ./photos
"""

import subprocess
import sys

from ray.cluster_utils import Cluster

# A cluster of your own is started by `ray start`, as README.md says; this is one for a first try.
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
try:
    cluster.add_node(num_cpus=2)
    command = [sys.executable, "-m", "llm2clip_search", "index", *sys.argv[1:], "--on", f"ray:{cluster.address}"]
    sys.exit(subprocess.run(command, check=False).returncode)
finally:
    cluster.shutdown()
