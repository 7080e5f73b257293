"""Objects as we write and read them: pure builders of Jobs, Run CRs and Events, and readers of raw objects."""
