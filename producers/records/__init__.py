"""The records of the load generator's runs: their lines, their files, and what is made of them."""
