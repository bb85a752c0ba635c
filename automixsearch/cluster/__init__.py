"""Ray: the session that a search has with a cluster, the room for trials there, and jobs that are sent to one."""
