"""Quartet beside other model servers: the same files, the same requests, the same minute."""
