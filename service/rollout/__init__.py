"""New versions by and by: a share of the requests, or copies whose answers are compared, then everything or nothing."""
