"""HTTP -> validate -> queue -> batch -> session -> split -> respond. Never imports torch."""
