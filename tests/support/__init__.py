"""What tests share: data sets, servers, jobs and runs that several of them start."""
