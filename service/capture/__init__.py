"""A sample of requests with their answers, kept in the form that training reads."""
