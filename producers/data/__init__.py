"""Conversations from data sets, the rows of files (JSON lines, CSV, parquet), and the conversations that we ship."""
