"""Reports of runs: tables for people and programs, and a page with pictures that needs nothing but itself."""
