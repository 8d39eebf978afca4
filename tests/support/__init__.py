"""What the tests share: servers, clients, applications and corpora. No tests."""
