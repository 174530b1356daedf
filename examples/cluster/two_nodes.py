"""Two Ray nodes on this machine index what the command line names, as a cluster would.

python two_nodes.py ./images --index ./photos
"""

import os
import secrets
import subprocess
import sys

# Nobody else may use the nodes while they run: a token of their own, in place of the one that `ray start` asks for.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

from ray.cluster_utils import Cluster

# A cluster of your own is started by `ray start`, as README.md says; this is one for a first try.
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
try:
    cluster.add_node(num_cpus=2)
    command = [sys.executable, "-m", "llm2clip_search", "index", *sys.argv[1:], "--on", f"ray:{cluster.address}"]
    sys.exit(subprocess.run(command, check=False).returncode)
finally:
    cluster.shutdown()
