"""What is looked at before an update changes anything, cheapest first. Plain functions that return `CheckResult`s."""
