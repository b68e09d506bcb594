"""What runs: settings, commands, jobs, HTTP interface and daemon of one node. Nothing imports it, tests aside."""
