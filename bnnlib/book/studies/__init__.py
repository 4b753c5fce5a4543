"""What one chapter alone needs: gradients of the scaled sign, Jacobians, effects of an ablation, evidence of a claim,
an inventory of a net's operations."""
