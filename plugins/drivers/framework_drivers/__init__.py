"""What a transport and a result store for the same server share. Drivers belong to no plugin family."""
