# Optional: an email when the account's monthly cost is forecast to exceed the budget, and when 80 % are spent.

resource "aws_budgets_budget" "this" {
  count        = var.budget == null ? 0 : 1
  name         = var.name
  budget_type  = "COST"
  time_unit    = "MONTHLY"
  limit_amount = tostring(var.budget.usd_a_month)
  limit_unit   = "USD"

  dynamic "notification" {
    for_each = { FORECASTED = 100, ACTUAL = 80 }
    content {
      notification_type          = notification.key
      threshold                  = notification.value
      threshold_type             = "PERCENTAGE"
      comparison_operator        = "GREATER_THAN"
      subscriber_email_addresses = [var.budget.email]
    }
  }
}
