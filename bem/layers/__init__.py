"""What several adapter folders share: low-rank products, roles of linears, PEFT's layers."""
