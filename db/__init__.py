"""What SQL is authoritative for: states, studies, jobs, deliveries, outcomes, audit."""
