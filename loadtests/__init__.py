"""Load on real server processes: fault drills, and the client they send it with."""
