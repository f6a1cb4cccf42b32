"""What a pool of generated rows holds, where its rows come from, and in which steps they were used."""
