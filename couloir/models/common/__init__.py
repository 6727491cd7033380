"""What the models of several families are made of: schedules, regularisers of training, their state."""
