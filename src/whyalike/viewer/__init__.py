"""The interactive page: two photographs, and what each region of one shares with the other."""
