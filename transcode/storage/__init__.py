"""Files: the only place that maps, reads, writes, grows or renames them."""
